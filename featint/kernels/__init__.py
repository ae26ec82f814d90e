"""Operations on sparse codes: `sparse` is what the models call, `loops` the compiled loops behind it on a CPU."""
