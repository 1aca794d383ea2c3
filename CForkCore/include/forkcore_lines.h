// SPDX-License-Identifier: Apache-2.0
//
// forkcore: what a process says of itself, and what it was given at its start. As in forkcore.h, nothing here
// allocates, and what can fail returns 0 or an errno value.

#ifndef FORKCORE_LINES_H
#define FORKCORE_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// ------------------------------------------------------------------------------------------------------------- lines

/// Writes `text` and a newline to `descriptor`, in one write, and never waits for whoever reads there: a line that does
/// not fit, as into a full pipe or a stopped terminal, is lost and counted, and the number is told before the next one
/// that fits. Each process counts its own. What is longer than PIPE_BUF is cut, and ends with "...". Returns whether
/// all of it was written.
///
/// O_NONBLOCK is not set, as the description is others' too. Sockets take MSG_DONTWAIT, pipes RWF_NOWAIT; FIFOs,
/// terminals and older kernels' pipes are opened once more, by /proc, without waiting. Only where that cannot be either
/// is the line written after a look whether there is room, and could wait if another process fills the room in that
/// moment. A regular file has no reader, and takes as long as its disk.
///
/// Any process and thread; no signal comes of it: neither SIGPIPE nor SIGXFSZ, nor SIGTTOU that would stop a process in
/// the background of a terminal under `stty tostop`. Signal-safe.
bool forkcore_tell(int descriptor, const char *text, size_t length);

/// write(2) until all is written, to a file. EFBIG at RLIMIT_FSIZE, and no SIGXFSZ or SIGPIPE.
///
/// Any process and thread. Signal-safe.
int forkcore_write_all(int descriptor, const void *bytes, size_t count);

/// From now on what a write raises ends nobody: SIGPIPE is ignored, if it had its default, and SIGXFSZ is blocked in
/// this thread, as it has no default to be given back in each child then. Returns which of the two were changed, for
/// forkcore_unguard_writes.
///
/// Any process. Signal-safe.
uint64_t forkcore_guard_writes(void);

/// Undoes that. What was raised meanwhile is thrown away.
///
/// The process and thread that guarded. Signal-safe.
void forkcore_unguard_writes(uint64_t guarded);

// ----------------------------------------------------------------------------------------------------------- at start

/// The arguments that this process was started with, as the kernel laid them down, its own name first and NULL last.
/// They are taken before main, and without /proc. `*count` is 0, and the result an empty vector, if that was not
/// possible.
///
/// Any process. Signal-safe.
char **forkcore_arguments(int *count);

/// Whoever started this process may have closed some of descriptors 0, 1 and 2. A socket of ours that took the place of
/// one would be written to in place of stdout or stderr, and be missing in a program that is executed. So /dev/null
/// takes those places, or where there is none a descriptor that can be neither read nor written. open(2).
///
/// Any process, before a descriptor is made. Signal-safe.
void forkcore_occupy_standard_descriptors(void);

#ifdef __cplusplus
}
#endif

#endif
