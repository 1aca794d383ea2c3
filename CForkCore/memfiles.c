// SPDX-License-Identifier: Apache-2.0
//
// Files in memory, to pass to other processes. Any process.
//
// A process that maps a file which another process can still change reads bytes that change under its eyes, and dies by
// SIGBUS when the file is made shorter. So a file is sealed before it is passed, and whoever gets one looks at the seals
// before it maps the file. A seal cannot be removed.
//
// A file can have holes: bytes that read as 0, and have no memory until somebody reads them. The reader pays for that
// memory, and dies by SIGBUS if the system refuses it (vm.overcommit_memory). A child could so pass a terabyte that it
// does not have. So files with holes are not taken.

#include "internal.h"

#include "forkcore_lines.h"
#include "forkcore_sockets.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8 // since Linux 6.3; some systems require it
#endif
#ifndef TMPFS_MAGIC
#define TMPFS_MAGIC 0x01021994 // from a kernel header, which not every libc comes with
#endif

int forkcore_memory_file(const char *name, int *descriptor)
{
    *descriptor = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (*descriptor < 0 && errno == EINVAL)
        *descriptor = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return *descriptor < 0 ? errno : 0;
}

// By write(2), whose errors are no signals, and which takes half the time of page faults.
static int allocate(int descriptor, size_t size)
{
    const char zeros[32 * 1024] = {0};
    int error = 0;
    for (size_t piece; size > 0 && error == 0; size -= piece) {
        piece = size < sizeof zeros ? size : sizeof zeros;
        error = forkcore_write_all(descriptor, zeros, piece);
    }
    return error;
}

int forkcore_memory_fill(int descriptor, size_t size, void **start)
{
    int error = allocate(descriptor, size);
    if (error != 0)
        return error;
    *start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, descriptor, 0);
    if (*start == MAP_FAILED)
        return errno;
    if (madvise(*start, size, MADV_DONTFORK) == 0)
        return 0;
    error = errno;
    munmap(*start, size);
    return error;
}

int forkcore_memory_seal(int descriptor)
{
    // F_SEAL_FUTURE_WRITE would allow mappings that exist to go on writing.
    const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;
    if (fcntl(descriptor, F_ADD_SEALS, seals) != 0)
        return errno;
    // All copies of the descriptor share an offset. A program that gets one as its stdin starts at the beginning.
    return lseek(descriptor, 0, SEEK_SET) < 0 ? errno : 0;
}

int forkcore_memory_look(int descriptor, struct forkcore_memory *memory)
{
    int seals = fcntl(descriptor, F_GET_SEALS); // EINVAL for all others. Their file system is not asked
    if (seals < 0)
        return errno;
    struct stat status;
    struct statfs system;
    if (fstat(descriptor, &status) != 0 || fstatfs(descriptor, &system) != 0)
        return errno;
    if (system.f_type != TMPFS_MAGIC)
        return EINVAL;
    *memory = (struct forkcore_memory){.can_shrink = !(seals & F_SEAL_SHRINK), .can_grow = !(seals & F_SEAL_GROW),
                                       .can_change = !(seals & F_SEAL_WRITE), .size = (size_t)status.st_size};
    if (status.st_size == 0)
        return 0;
    // Not st_blocks, which also counts memory beyond the end.
    off_t hole = lseek(descriptor, 0, SEEK_HOLE);
    if (hole < 0 || lseek(descriptor, 0, SEEK_SET) < 0)
        return errno;
    memory->filled = (size_t)hole;
    return 0;
}

int forkcore_memory_map(int descriptor, size_t size, void **start)
{
    // Private, because Linux before 6.7 maps no sealed file shared. As nobody writes, the pages are the file's own.
    *start = mmap(NULL, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    return *start == MAP_FAILED ? errno : 0;
}
