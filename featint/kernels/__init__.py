"""Operations on sparse codes: `sparse`, which the models call, and compiled `loops` behind it."""
