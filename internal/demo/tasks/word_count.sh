#!/bin/sh
# A task is any executable: its payload comes on stdin, as {"payload": …}; what it prints is the job's log.
words=$(sed 's/.*"text": *"\([^"]*\)".*/\1/' | wc -w)
echo "counted $((words)) words for job $GRAPHILE_WORKER_JOB_ID"
printf '{"words": %d}' "$words" > "$OFFSTAGE_RESULT"
