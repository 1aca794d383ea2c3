// SPDX-License-Identifier: Apache-2.0
//
// Files in memory: sealed, mapped, and looked at before they are trusted.

#include "test.h"

#include <sys/syscall.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x10
#endif

enum { SIZE = 256 * 1024, ALL = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE };

static int file_of(size_t size)
{
    int file;
    void *start;
    CHECK(forkcore_memory_file("test", &file) == 0 && fcntl(file, F_GETFD) == FD_CLOEXEC);
    CHECK(forkcore_memory_fill(file, size, &start) == 0);
    memset(start, 7, size);
    munmap(start, size);
    return file;
}

static void what_is_sealed_is_read_and_not_written(void)
{
    int file = file_of(SIZE);
    struct forkcore_memory memory;
    void *start;
    CHECK(forkcore_memory_seal(file) == 0 && lseek(file, 0, SEEK_CUR) == 0);
    CHECK(forkcore_memory_look(file, &memory) == 0 && memory.size == SIZE && memory.filled == SIZE);
    CHECK(!memory.can_shrink && !memory.can_grow && !memory.can_change && lseek(file, 0, SEEK_CUR) == 0);
    CHECK(forkcore_memory_map(file, SIZE, &start) == 0);
    for (size_t i = 0; i < SIZE; i++)
        CHECK(((char *)start)[i] == 7);
    CHECK(pwrite(file, "x", 1, 0) == -1 && errno == EPERM);
    CHECK(ftruncate(file, 0) == -1 && errno == EPERM);
    CHECK(ftruncate(file, SIZE + 1) == -1 && errno == EPERM);
    CHECK(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == -1 && errno == EPERM);
    CHECK(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) == MAP_FAILED && errno == EPERM);
    CHECK(fcntl(file, F_ADD_SEALS, 0) == -1 && errno == EPERM);
    CHECK(mprotect(start, SIZE, PROT_READ | PROT_WRITE) == 0); // a copy of its own, in this process alone
    *(char *)start = 1;
    char byte;
    CHECK(pread(file, &byte, 1, 0) == 1 && byte == 7);
    munmap(start, SIZE);
    close(file);
}

static void what_is_mapped_for_writing_is_not_sealed(void)
{
    int file;
    void *start;
    CHECK(forkcore_memory_file("test", &file) == 0 && forkcore_memory_fill(file, SIZE, &start) == 0);
    CHECK(forkcore_memory_seal(file) == EBUSY);
    munmap(start, SIZE);
    CHECK(forkcore_memory_seal(file) == 0);
    close(file);
}

static void what_nobody_has_written_is_there_too(void)
{
    struct forkcore_memory memory;
    int file;
    void *start;
    for (size_t size = 1; size <= 100000; size += 33333) { // not of whole pages only
        CHECK(forkcore_memory_file("test", &file) == 0 && forkcore_memory_fill(file, size, &start) == 0);
        munmap(start, size);
        CHECK(forkcore_memory_look(file, &memory) == 0 && memory.size == size && memory.filled == size);
        close(file);
    }
}

// Another thread's fork, at the wrong moment: its child would have the mapping for as long as it lives.
static void a_fork_meanwhile_does_not_keep_it_from_being_sealed(void)
{
    int file;
    void *start;
    struct gate gate = make_gate();
    CHECK(forkcore_memory_file("test", &file) == 0 && forkcore_memory_fill(file, SIZE, &start) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(gate.ends[1]);
        _exit(wait_for_gate(&gate.ends[0]));
    }
    munmap(start, SIZE);
    CHECK(forkcore_memory_seal(file) == 0);
    close_gate(gate);
    CHECK(waitpid(pid, NULL, 0) == pid);
    close(file);
}

static void each_seal_that_is_missing_is_told(void)
{
    for (int seals = 0; seals <= ALL; seals++) {
        struct forkcore_memory memory;
        if (seals & ~ALL)
            continue;
        int file = file_of(SIZE);
        CHECK(fcntl(file, F_ADD_SEALS, seals | F_SEAL_FUTURE_WRITE) == 0); // those that map it already can write
        CHECK(forkcore_memory_look(file, &memory) == 0 && memory.size == SIZE && memory.filled == SIZE);
        CHECK(memory.can_shrink == !(seals & F_SEAL_SHRINK) && memory.can_grow == !(seals & F_SEAL_GROW));
        CHECK(memory.can_change == !(seals & F_SEAL_WRITE));
        close(file);
    }
}

static void holes_are_told(void)
{
    struct forkcore_memory memory;
    int file;
    CHECK(forkcore_memory_file("test", &file) == 0 && ftruncate(file, (off_t)1 << 40) == 0);
    CHECK(forkcore_memory_look(file, &memory) == 0 && memory.size == (size_t)1 << 40 && memory.filled == 0);
    CHECK(pwrite(file, "x", 1, 0) == 1 && pwrite(file, "x", 1, 8192) == 1);
    CHECK(forkcore_memory_look(file, &memory) == 0 && memory.filled == 4096);
    close(file);
    // As much memory as it is long, but beyond its end.
    CHECK(forkcore_memory_file("test", &file) == 0 && ftruncate(file, SIZE) == 0);
    CHECK(fallocate(file, FALLOC_FL_KEEP_SIZE, SIZE, SIZE) == 0);
    CHECK(forkcore_memory_look(file, &memory) == 0 && memory.size == SIZE && memory.filled == 0);
    close(file);
}

static void nothing_is_no_hole(void)
{
    struct forkcore_memory memory;
    int file;
    CHECK(forkcore_memory_file("test", &file) == 0 && forkcore_memory_seal(file) == 0);
    CHECK(forkcore_memory_look(file, &memory) == 0 && memory.size == 0 && memory.filled == 0 && !memory.can_change);
    close(file);
}

static void what_is_no_memory_file_is_refused(void)
{
    struct forkcore_memory memory;
    struct gate gate = make_gate();
    CHECK(forkcore_memory_look(gate.ends[0], &memory) == EINVAL);
    close_gate(gate);
    int file = open("/dev/null", O_RDWR | O_CLOEXEC);
    CHECK(forkcore_memory_look(file, &memory) == EINVAL);
    close(file);
    CHECK(forkcore_memory_look(file, &memory) == EBADF);
    file = open("/dev/null", O_PATH | O_CLOEXEC);
    CHECK(forkcore_memory_look(file, &memory) == EBADF);
    close(file);
    const unsigned huge = 4; // MFD_HUGETLB
    file = (int)syscall(SYS_memfd_create, "test", huge | MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(file >= 0 ? forkcore_memory_look(file, &memory) == EINVAL : errno == ENOSYS || errno == EINVAL);
    if (file >= 0)
        close(file);
}

// An error, where writing into a mapping, or ftruncate(2), would end the process by a signal.
static void a_shortage_is_an_error(void)
{
    int file;
    void *start;
    struct rlimit limit;
    CHECK(forkcore_memory_file("test", &file) == 0);
    getrlimit(RLIMIT_FSIZE, &limit);
    CHECK(setrlimit(RLIMIT_FSIZE, &(struct rlimit){SIZE, limit.rlim_max}) == 0);
    CHECK(forkcore_memory_fill(file, SIZE + 1, &start) == EFBIG);
    close(file);
    setrlimit(RLIMIT_FSIZE, &limit);
    CHECK(forkcore_memory_file("test", &file) == 0);
    CHECK(setrlimit(RLIMIT_AS, &(struct rlimit){1 << 20, 1 << 20}) == 0);
    CHECK(forkcore_memory_fill(file, 2 << 20, &start) == ENOMEM);
    CHECK(forkcore_memory_map(file, 2 << 20, &start) == ENOMEM);
    close(file);
}

static void signals_are_not_noticed(void)
{
    start_storm();
    int count = storm_count();
    do {
        int file = file_of(8 << 20);
        CHECK(forkcore_memory_seal(file) == 0);
        close(file);
    } while (storm_count() < count + 100);
    stop_storm();
}

const struct test memory_tests[] = {
    {"what is sealed is read, and not written", what_is_sealed_is_read_and_not_written},
    {"what is mapped for writing is not sealed", what_is_mapped_for_writing_is_not_sealed},
    {"what nobody has written is there too", what_nobody_has_written_is_there_too},
    {"a fork meanwhile does not keep it from being sealed", a_fork_meanwhile_does_not_keep_it_from_being_sealed},
    {"each seal that is missing is told", each_seal_that_is_missing_is_told},
    {"holes are told", holes_are_told},
    {"nothing is no hole", nothing_is_no_hole},
    {"what is no memory file is refused", what_is_no_memory_file_is_refused},
    {"a shortage is an error", a_shortage_is_an_error},
    {"signals are not noticed", signals_are_not_noticed},
    {0},
};
