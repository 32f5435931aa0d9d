#!/usr/bin/env bash
# Prints what became of a job of LSF, SGE or PBS: running (or waiting), success or failed.
job=$1

verdict() { # of its exit codes: none yet, all 0, or others
  case $1 in
    "") echo running ;;
    *[!0]*) echo failed ;;
    *) echo success ;;
  esac
}

if command -v bjobs >/dev/null; then # LSF
  case $(bjobs -noheader -o stat "$job" 2>/dev/null) in
    DONE) echo success ;;
    EXIT | "") echo failed ;; # "": forgotten
    *) echo running ;;
  esac
elif command -v qacct >/dev/null; then # SGE: a job is in the one list, and then in the other
  if qstat -j "$job" &>/dev/null; then
    echo running
  else
    verdict "$(qacct -j "$job" 2>/dev/null | awk '$1 == "failed" || $1 == "exit_status" { printf "%s", $2 }')"
  fi
else # PBS; without -x for those that have no history, but keep finished jobs for a while
  if about=$(qstat -x -f "$job" 2>/dev/null || qstat -f "$job" 2>/dev/null); then
    case $about in
      *"job_state = "[FC]*) verdict "$(awk 'tolower($1) == "exit_status" { print $3 }' <<<"$about" | grep . || echo 1)" ;;
      *) echo running ;;
    esac
  else
    echo failed # forgotten
  fi
fi
