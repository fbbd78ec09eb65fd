// A library that stands between a program and libc's functions that change files. It counts the
// calls that concern one directory, can log them with their data, and lets one of them fail.

#pragma once

#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

enum FaultAction {
  FAULT_NONE,
  FAULT_KILL,      // the process dies before the operation
  FAULT_TEAR,      // it dies when half of a write is done
  FAULT_KILL_ALL,  // all processes of `pids` die before the operation
  FAULT_ERROR,     // the operation fails with `error`
  FAULT_FULL,      // it and all later ones that need room fail with ENOSPC
  FAULT_BROKEN,    // it and all later ones fail with EIO
  FAULT_SHORT,     // a write does only half
};

struct FaultPlan {
  const char* directory;  // what lies under it is watched
  long at;                // number of the operation, from 1
  enum FaultAction action;
  int error;
  const pid_t* pids;
  int pid_count;
  const char* log;  // a file that operations are appended to, or null
};

// From now on operations are counted. `plan` must live until faults_disarm().
__attribute__((visibility("default"))) void faults_arm(const struct FaultPlan* plan);
// Returns how many there were. `last` is what the fault struck, "" if nothing.
__attribute__((visibility("default"))) long faults_disarm(char last[16]);
// A line of its own in the log.
__attribute__((visibility("default"))) void faults_mark(const char* text);

#ifdef __cplusplus
}
#endif
