#!/bin/sh
exec /usr/bin/twilld mk-docker-opts "$@"
