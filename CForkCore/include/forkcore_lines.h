// SPDX-License-Identifier: Apache-2.0
//
// forkcore: a process's log lines, and its arguments. As in forkcore.h, no function allocates, and those that can fail
// return 0 or an errno value.

#ifndef FORKCORE_LINES_H
#define FORKCORE_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// ------------------------------------------------------------------------------------------------------------- lines

/// Writes `text` and a newline to `descriptor`, in one write, and never waits for the reader. A line that does not fit,
/// such as into a full pipe or a stopped terminal, is lost and counted, and the next line that fits reports the number
/// first. Each process counts its own lost lines. A line longer than PIPE_BUF is cut, and ends with "...". Returns
/// whether all of it was written.
///
/// O_NONBLOCK is not set, because other processes share the open file description. Sockets take MSG_DONTWAIT, pipes
/// RWF_NOWAIT. FIFOs, terminals and pipes of older kernels are opened again through /proc, without waiting. If that
/// fails, the line is written only if poll says that there is room; then the write waits if another process fills that
/// room at this moment. A write to a regular file takes as long as its disk.
///
/// Any process and thread. It raises no signal: not SIGPIPE, not SIGXFSZ, and not SIGTTOU, which would stop a process
/// in the background of a terminal under `stty tostop`. Signal-safe.
bool forkcore_tell(int descriptor, const char *text, size_t length);

/// Calls write(2) until all is written, to a file. EFBIG at RLIMIT_FSIZE, without SIGXFSZ or SIGPIPE.
///
/// Any process and thread. Signal-safe.
int forkcore_write_all(int descriptor, const void *bytes, size_t count);

/// Makes sure that no signal of a write ends the process: ignores SIGPIPE if it had its default, and blocks SIGXFSZ in
/// this thread. It blocks SIGXFSZ instead of ignoring it, so that children need not reset its disposition. Returns
/// which of the two it changed, for forkcore_unguard_writes.
///
/// Any process. Signal-safe.
uint64_t forkcore_guard_writes(void);

/// Undoes that, and discards signals that were raised meanwhile.
///
/// The process and thread that called forkcore_guard_writes. Signal-safe.
void forkcore_unguard_writes(uint64_t guarded);

// ----------------------------------------------------------------------------------------------------------- at start

/// The arguments of this process, as the kernel laid them out, with its own name first and NULL last. They are recorded
/// before main, and without /proc. `*count` is 0, and the vector empty, if that was not possible.
///
/// Any process. Signal-safe.
char **forkcore_arguments(int *count);

/// Opens /dev/null for each of the descriptors 0, 1 and 2 that is closed. Otherwise a socket of ours could get such a
/// number: output would be written to it instead of stdout or stderr, and executed programs would lack that descriptor.
/// Without /dev/null it opens a descriptor that can be neither read nor written. open(2).
///
/// Any process, before it opens a descriptor. Signal-safe.
void forkcore_occupy_standard_descriptors(void);

#ifdef __cplusplus
}
#endif

#endif
