// SPDX-License-Identifier: Apache-2.0
//
// Death marks: how a parent learns which children have ended, at a cost that hardly grows with their number.
//
// The problem. SIGCHLD names one child, but the kernel merges the signals of children that end close together, so other
// ended children may hide behind that one. To find those, a parent can ask for each live child by pid (as Python's
// socketserver does: a system call per live child), let waitpid(-1) find one (the kernel then walks the list of all
// children, and also reaps children of other code), or have a pidfd per child (each fork copies and closes all of
// them). The cost of all three grows with the number of live children.
//
// The solution. Each child has a slot in memory that it shares with its parent, and in the slot a robust mutex (see
// pthread_mutexattr_setrobust(3)). The child's first step is to lock it, and it never unlocks it. However a process
// ends, by _exit, a trap, SIGKILL or lack of memory, the kernel itself walks the robust mutexes that it held, and sets
// FUTEX_OWNER_DIED in each instead of the owner's number. It does so before it sends SIGCHLD to the parent, and without
// any help of the child. So after a SIGCHLD the parent reads one word per slot, in memory, and calls wait4 only for
// children whose mutex no thread holds.
//
// The values of a word:
//
//     a thread's number     held: the child lives
//     FUTEX_OWNER_DIED      the child is ending or has ended: ask
//     0                     forked, and not locked yet; perhaps it never came so far: ask
//     VACANT                the slot has no child
//
// The parent trusts none of these. Every child can write to this memory, so a word is only a hint about which child to
// ask for, and wait4 decides. Pids and everything else are in memory of the parent that children do not have. What can
// go wrong, and what we do:
//
// - A word says "dead" and wait4 says "alive": for some microseconds at each child's end, and for as long as the child
//   likes if it has forged the word or has called execve (which releases the mutex, too). A slot that was asked for in
//   vain several times is skipped until its word changes. Because a child can change its word, the slot is skipped
//   after some more vain calls whatever the word says, until forkcore_marks_trust.
// - A word says "alive" and the child has ended: the word is forged, or the child has locked nothing. So after any
//   SIGCHLD the parent must at some time ask for all children by pid; ReapSource does so within a second.
// - The mutex itself contains rubbish: the child reads nothing of it, and puts it first into its own list. The kernel
//   walks such a list as carefully as that of any process.
//
// The child can still use robust mutexes itself (but if it replaces its list by set_robust_list(2), its mark is lost).
// The layout of a mutex and of the list is internal to libc; only `word` and `forkcore_mark_take` know it. With another
// libc than glibc every child is asked for by pid.

#include "internal.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <linux/futex.h>
#endif

extern char _end[]; // the end of the program's data, defined by the linker: see end(3)

enum {
    HOLDER = 0x3fffffff, // the bits of a lock word for the thread that holds it: FUTEX_TID_MASK in futex(2)
    VACANT = 1,          // as if process 1 held it, which is never our child
    VAIN_A_WORD = 8,     // maximum number of vain calls for a slot while its word is the same
    VAIN_IN_ALL = 32,    // maximum number of vain calls for a slot, whatever its word
};

// Per slot; only the parent has it.
struct patience {
    uint32_t word; // its value at the last vain call for this slot
    uint8_t vain;  // number of vain calls with that value
    uint8_t vain_in_all;
    bool occupied;
};

struct forkcore_marks {
    size_t slots;
    pthread_mutex_t *mutexes; // shared with all children
    struct patience *patience;
};

#ifdef __GLIBC__

_Static_assert(offsetof(pthread_mutex_t, __data.__lock) == 0 && sizeof(int) == sizeof(uint32_t),
               "glibc keeps a mutex's lock word first");

static _Atomic uint32_t *word(pthread_mutex_t *mutex)
{
    return (_Atomic uint32_t *)mutex;
}

static uint32_t look_at(const struct forkcore_marks *marks, size_t slot)
{
    return atomic_load_explicit(word(&marks->mutexes[slot]), memory_order_relaxed);
}

static void write_to(const struct forkcore_marks *marks, size_t slot, uint32_t value)
{
    atomic_store_explicit(word(&marks->mutexes[slot]), value, memory_order_relaxed);
}

// The list of the robust mutexes that this thread holds, which the kernel walks when the thread ends. In a child it has
// the same address.
static _Thread_local struct robust_list_head *held;

static void find_list(void)
{
    size_t size;
    if (held == NULL && syscall(SYS_get_robust_list, 0, &held, &size) != 0)
        held = NULL; // then children lock no mutex, and are asked for by pid
}

// Does what pthread_mutex_trylock does to a robust mutex that is not held, but reads nothing of it, because other
// processes can write to it at any time, and glibc aborts on an invalid kind of mutex. Sets the word last: if the child
// dies before that, its word is still 0.
void forkcore_mark_take(void *mark)
{
    if (held == NULL)
        return;
    struct robust_list *node = (struct robust_list *)((char *)mark - held->futex_offset);
    struct robust_list *first = held->list.next;
    struct robust_list *untagged = (struct robust_list *)((uintptr_t)first & ~(uintptr_t)1);
    node->next = first;
#if __SIZEOF_POINTER__ == 8 // glibc also links backwards, by the word before each node
    node[-1].next = &held->list;
    untagged[-1].next = node;
#else
    (void)untagged;
#endif
    atomic_signal_fence(memory_order_seq_cst);
    held->list.next = node;
    atomic_signal_fence(memory_order_seq_cst);
    pid_t self = forkcore_thread_id();
    if (self > 0) // a system call filter may forbid gettid
        atomic_store_explicit(word(mark), (uint32_t)self, memory_order_relaxed);
}

#else

static uint32_t look_at(const struct forkcore_marks *marks, size_t slot)
{
    return marks->patience[slot].occupied ? 0 : VACANT;
}

static void write_to(const struct forkcore_marks *marks, size_t slot, uint32_t value)
{
    (void)marks, (void)slot, (void)value;
}

static void find_list(void) {}

void forkcore_mark_take(void *mark)
{
    (void)mark;
}

#endif

int forkcore_marks_open(size_t slots, struct forkcore_marks **marks)
{
    void *own;
    size_t size = sizeof **marks + slots * sizeof(struct patience);
    int error = forkcore_parent_memory_open(size, &own);
    if (error != 0)
        return error;
    // Behind the program's data, if that is free: a child has the page tables for these addresses already.
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), behind = ((uintptr_t)_end + page - 1) & ~(page - 1);
    void *mutexes = mmap((void *)behind, slots * sizeof(pthread_mutex_t), PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mutexes == MAP_FAILED) {
        error = errno;
        forkcore_parent_memory_close(own, size);
        return error;
    }
    *marks = own;
    **marks = (struct forkcore_marks){slots, mutexes, (struct patience *)(*marks + 1)};
    return 0;
}

void forkcore_marks_close(struct forkcore_marks *marks)
{
    size_t slots = marks->slots;
    munmap(marks->mutexes, slots * sizeof(pthread_mutex_t));
    forkcore_parent_memory_close(marks, sizeof *marks + slots * sizeof(struct patience));
}

void *forkcore_marks_occupy(struct forkcore_marks *marks, size_t slot)
{
    marks->patience[slot] = (struct patience){.occupied = true};
    write_to(marks, slot, 0);
    find_list();
    return &marks->mutexes[slot];
}

void forkcore_marks_vacate(struct forkcore_marks *marks, size_t slot)
{
    marks->patience[slot] = (struct patience){.occupied = false};
    write_to(marks, slot, VACANT);
}

static bool worth_asking(const struct patience *patience, uint32_t word)
{
    return patience->occupied && patience->vain_in_all < VAIN_IN_ALL
        && (patience->vain < VAIN_A_WORD || patience->word != word);
}

size_t forkcore_marks_next(const struct forkcore_marks *marks, size_t from, size_t end)
{
    for (size_t slot = from; slot < end; slot++) {
        uint32_t word = look_at(marks, slot);
        if ((word & HOLDER) == 0 && worth_asking(&marks->patience[slot], word))
            return slot;
    }
    return end;
}

void forkcore_marks_doubt(struct forkcore_marks *marks, size_t slot)
{
    struct patience *patience = &marks->patience[slot];
    uint32_t word = look_at(marks, slot);
    patience->vain = patience->word == word ? patience->vain + (patience->vain < UINT8_MAX) : 1;
    patience->vain_in_all += patience->vain_in_all < UINT8_MAX;
    patience->word = word;
}

void forkcore_marks_trust(struct forkcore_marks *marks, size_t slot)
{
    marks->patience[slot] = (struct patience){.occupied = marks->patience[slot].occupied};
}

bool forkcore_marks_holds(const struct forkcore_marks *marks, size_t slot, pid_t pid)
{
    return (look_at(marks, slot) & HOLDER) == (uint32_t)pid;
}
