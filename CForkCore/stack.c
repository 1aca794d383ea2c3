// SPDX-License-Identifier: Apache-2.0
//
// A stack for a parent's loop.
//
// What a parent writes to its stack between one fork and the next, it writes to pages that its last child has, too: the kernel
// gives it copies, and the child keeps the old ones as long as it lives. They cost a page fault each; and as all children
// have a mapping of that stack, the kernel asks all of them whenever it looks for such a page's users. With thousands of children
// this is most of what a fork costs.
//
// So the loop runs on a stack that is not for children (MADV_DONTFORK), and they run where it was called from, below that: on
// pages that the parent does not touch meanwhile. fork(2) itself returns twice on one stack, and what libc writes around it needs
// a page that both have: each fork is called from another page of a mapping, and that is made anew when all four of them have
// been used. So few children have it, and the kernel has few to ask; with more of them those left behind are copied by each fork.

#include "internal.h"

#include "forkcore_stack.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

enum {
    LANDINGS = 4,
    LANDING = 64 * 1024, // for what others do around a fork (pthread_atfork); one page of it is used, mostly
    GAP = 512,           // below the caller's frame
    PAGE = 4096,         // a child begins with a whole one, and mostly needs no other
    MOST = 2048,
    GUARD = 64 * 1024,
};

static const size_t LEAST = (size_t)8 << 20, LARGEST = (size_t)1 << 30;

struct forkcore_stack {
    size_t size;
    bool is_departing; // a child is forked that is not to have it
    char *landings, *caller;
    int used;
};

// The one that runs. Thread-local as the process's number is: in the page that each child changes anyway (see memory.c).
static _Thread_local const char *bottom, *top;

// ------------------------------------------------------------------------------------------------------------ the machine

// Calls body(context) with the stack beginning at `top`. The frame's address is kept, by which debuggers find their way back.
void forkcore_stack_switch(void *top, void (*body)(void *), void *context);

// The same for a body that does not return, and that nothing stands above: whoever looks at the stack of a child must not come
// to the one that it does not have.
void forkcore_stack_begin(void *top, void (*body)(void *), void *context);

#if defined(__x86_64__) && !defined(__ILP32__)

#define CAN_SWITCH 1

__asm__(".pushsection .text.forkcore_stack_switch, \"ax\", @progbits\n"
        ".globl forkcore_stack_switch\n"
        ".hidden forkcore_stack_switch\n"
        ".type forkcore_stack_switch, @function\n"
        "forkcore_stack_switch:\n"
        ".cfi_startproc\n"
        "endbr64\n"
        "pushq %rbp\n"
        ".cfi_def_cfa_offset 16\n"
        ".cfi_offset %rbp, -16\n"
        "movq %rsp, %rbp\n"
        ".cfi_def_cfa_register %rbp\n"
        "movq %rdi, %rsp\n"
        "movq %rdx, %rdi\n"
        "callq *%rsi\n"
        "movq %rbp, %rsp\n"
        "popq %rbp\n"
        ".cfi_def_cfa %rsp, 8\n"
        "retq\n"
        ".cfi_endproc\n"
        ".size forkcore_stack_switch, . - forkcore_stack_switch\n"
        ".globl forkcore_stack_begin\n"
        ".hidden forkcore_stack_begin\n"
        ".type forkcore_stack_begin, @function\n"
        "forkcore_stack_begin:\n"
        ".cfi_startproc\n"
        ".cfi_undefined %rip\n"
        "endbr64\n"
        "xorl %ebp, %ebp\n"
        "movq %rdi, %rsp\n"
        "movq %rdx, %rdi\n"
        "callq *%rsi\n"
        "ud2\n"
        ".cfi_endproc\n"
        ".size forkcore_stack_begin, . - forkcore_stack_begin\n"
        ".popsection\n");

#elif defined(__aarch64__)

#define CAN_SWITCH 1

__asm__(".pushsection .text.forkcore_stack_switch, \"ax\", %progbits\n"
        ".globl forkcore_stack_switch\n"
        ".hidden forkcore_stack_switch\n"
        ".type forkcore_stack_switch, %function\n"
        "forkcore_stack_switch:\n"
        ".cfi_startproc\n"
        "hint #34\n" // bti c
        "stp x29, x30, [sp, #-16]!\n"
        ".cfi_def_cfa_offset 16\n"
        ".cfi_offset x29, -16\n"
        ".cfi_offset x30, -8\n"
        "mov x29, sp\n"
        ".cfi_def_cfa_register x29\n"
        "mov sp, x0\n"
        "mov x0, x2\n"
        "blr x1\n"
        "mov sp, x29\n"
        ".cfi_def_cfa_register sp\n"
        "ldp x29, x30, [sp], #16\n"
        ".cfi_def_cfa_offset 0\n"
        ".cfi_restore x29\n"
        ".cfi_restore x30\n"
        "ret\n"
        ".cfi_endproc\n"
        ".size forkcore_stack_switch, . - forkcore_stack_switch\n"
        ".globl forkcore_stack_begin\n"
        ".hidden forkcore_stack_begin\n"
        ".type forkcore_stack_begin, %function\n"
        "forkcore_stack_begin:\n"
        ".cfi_startproc\n"
        ".cfi_undefined x30\n"
        "hint #34\n"
        "mov x29, #0\n"
        "mov x30, #0\n"
        "mov sp, x0\n"
        "mov x0, x2\n"
        "blr x1\n"
        "brk #1\n"
        ".cfi_endproc\n"
        ".size forkcore_stack_begin, . - forkcore_stack_begin\n"
        ".popsection\n");

#else

#define CAN_SWITCH 0

void forkcore_stack_switch(void *top, void (*body)(void *), void *context)
{
    (void)top;
    body(context);
}

void forkcore_stack_begin(void *top, void (*body)(void *), void *context)
{
    (void)top;
    body(context);
    abort();
}

#endif

// ------------------------------------------------------------------------------------------------- who else forks on it

static void advise(int advice)
{
    if (top && !((const struct forkcore_stack *)(const void *)top)->is_departing)
        madvise((void *)(uintptr_t)bottom, (size_t)(top - bottom), advice);
}

static void give(void)
{
    advise(MADV_DOFORK);
}

static void take_back(void)
{
    advise(MADV_DONTFORK);
}

static void forget(void)
{
    bottom = top = NULL;
}

__attribute__((constructor)) static void begin(void)
{
    pthread_atfork(give, take_back, forget);
}

// ----------------------------------------------------------------------------------------------------------- the stack

enum { FLAGS = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK };

int forkcore_stack_open(struct forkcore_stack **stack)
{
    if (!CAN_SWITCH)
        return ENOTSUP;
    struct rlimit limit = {0};
    getrlimit(RLIMIT_STACK, &limit);
    size_t size = limit.rlim_cur > LARGEST ? LARGEST : (size_t)limit.rlim_cur & ~(size_t)(GUARD - 1);
    size = (size < LEAST ? LEAST : size) + GUARD;
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, FLAGS, -1, 0);
    if (memory == MAP_FAILED)
        return errno;
    // Whoever needs more ends at its lower end.
    if (mprotect(memory, GUARD, PROT_NONE) != 0 || madvise(memory, size, MADV_DONTFORK) != 0) {
        int error = errno;
        munmap(memory, size);
        return error;
    }
    // What is changed for each fork lies in it, too.
    *stack = (struct forkcore_stack *)(void *)(memory + size - sizeof **stack);
    (*stack)->size = size;
    (*stack)->used = LANDINGS;
    return 0;
}

static void drop_landings(struct forkcore_stack *stack)
{
    if (stack->landings)
        munmap(stack->landings, GUARD + LANDINGS * LANDING + GUARD);
    stack->landings = NULL;
}

void forkcore_stack_close(struct forkcore_stack *stack)
{
    drop_landings(stack);
    munmap((char *)stack + sizeof *stack - stack->size, stack->size);
}

// Not inline: below this frame must be nothing that a child needs.
__attribute__((noinline)) void forkcore_stack_run(struct forkcore_stack *stack, void (*body)(void *), void *context)
{
    if (top) { // a server in a hook of another one's
        body(context);
        return;
    }
    stack->caller = (char *)(((uintptr_t)__builtin_frame_address(0) - GAP) & ~(uintptr_t)(PAGE - 1));
    top = (const char *)stack;
    bottom = top + sizeof *stack - stack->size;
    forkcore_stack_switch((void *)((uintptr_t)stack & ~(uintptr_t)63), body, context);
    bottom = top = NULL;
}

// ------------------------------------------------------------------------------------------------------------- the fork

// All that a child needs, on the page that it lands on.
struct departure {
    struct forkcore_child_plan plan;
    struct forkcore_credentials credentials;
    int (*body)(const void *);
    char *caller;
    pid_t pid;
    int error;
    _Alignas(16) char start[];
};

static void live(void *context)
{
    const struct departure *departure = context;
    forkcore_exit(departure->body(departure->start));
}

static void depart(void *context)
{
    struct departure *departure = context;
    departure->error = forkcore_fork(&departure->plan, &departure->pid);
    if (departure->error == 0 && departure->pid == 0)
        forkcore_stack_begin(departure->caller, live, departure);
}

// Their place stays, between two guards, and what is mapped there is another each time: so it shares nothing with its neighbours,
// nor with what was there.
static int renew_landings(struct forkcore_stack *stack)
{
    if (!stack->landings) {
        char *place = mmap(NULL, GUARD + LANDINGS * LANDING + GUARD, PROT_NONE, FLAGS, -1, 0);
        if (place == MAP_FAILED)
            return errno;
        madvise(place, GUARD + LANDINGS * LANDING + GUARD, MADV_DONTFORK); // the guards are the parent's
        stack->landings = place;
    }
    if (mmap(stack->landings + GUARD, LANDINGS * LANDING, PROT_READ | PROT_WRITE, FLAGS | MAP_FIXED, -1, 0) == MAP_FAILED) {
        int error = errno;
        drop_landings(stack); // there can be a hole in it
        return error;
    }
    stack->used = 0;
    return 0;
}

int forkcore_stack_fork(struct forkcore_stack *stack, const struct forkcore_child_plan *plan, const void *start, size_t size,
                        int (*body)(const void *), pid_t *child)
{
    if (size > MOST)
        return EINVAL;
    if (top != (const char *)stack) { // it was not switched to
        int code = forkcore_fork(plan, child);
        if (code == 0 && *child == 0)
            forkcore_exit(body(start));
        return code;
    }
    int error = stack->used == LANDINGS ? renew_landings(stack) : 0;
    if (error != 0)
        return error;
    char *end = stack->landings + GUARD + ++stack->used * LANDING;
    struct departure *departure = (struct departure *)(((uintptr_t)end - sizeof *departure - size) & ~(uintptr_t)63);
    *departure = (struct departure){.plan = *plan, .body = body, .caller = stack->caller};
    if (plan->identity.credentials) {
        departure->credentials = *plan->identity.credentials;
        departure->plan.identity.credentials = &departure->credentials;
    }
    memcpy(departure->start, start, size);
    stack->is_departing = true;
    forkcore_stack_switch(departure, depart, departure);
    stack->is_departing = false;
    *child = departure->pid;
    return departure->error;
}
