#!/bin/sh
exec kubectl delete job --wait=false --ignore-not-found "$@"
