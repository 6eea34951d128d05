#!/bin/sh
grep -q '"payload":{"to":"a file"}'
