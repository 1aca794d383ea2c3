// SPDX-License-Identifier: Apache-2.0
//
// A stack for a parent's loop. Parent, zygote.
//
// What a parent writes to its stack between two forks, it writes to pages that its last child has, too. The kernel
// gives the parent copies, and the child keeps the old pages as long as it lives. Each costs a page fault. And because
// all children have a mapping of that stack, the kernel checks all of them whenever it looks for the users of such a
// page. With thousands of children this is most of the cost of a fork.
//
// So the loop runs on a stack that children do not get (MADV_DONTFORK). A child runs on the stack from which the loop
// was called, below that call: on pages that the parent does not touch meanwhile. fork(2) itself returns twice on one
// stack, and libc writes to that stack around the call, so fork is called there, too. Parent and child both write to
// that page then. The first of them gets a copy; with the other's first write the old page becomes its own. So the page
// has one user, which the kernel finds at once.

#include "internal.h"

#include "forkcore_stack.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    GAP = 512, // below the caller's frame
    MOST = 2048,
    GUARD = 64 * 1024,
};

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

static const size_t LEAST = (size_t)8 << 20, LARGEST = (size_t)1 << 30;

struct forkcore_stack {
    size_t size;
    bool is_departing; // a child is being forked that must not get this stack
    char *caller;
};

// The bounds of the stack that runs now. Thread-local for the same reason as the pid in memory.c: each child changes
// that page anyway.
static _Thread_local const char *bottom, *top;

// ------------------------------------------------------------------------------------------------------------ the machine

// Calls body(context) with the stack beginning at `top`. Keeps the frame pointer, by which debuggers find the caller.
void forkcore_stack_switch(void *top, void (*body)(void *), void *context);

// The same for a body that does not return. Its frame has no caller: an unwinder in a child must not reach the stack
// that the child does not have.
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

// -------------------------------------------------------------------------------------------- other forks on the stack

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

// A stack overflow hits the guard at the lower end. If the kernel supports guards within a mapping (Linux 6.13), the
// stack stays one mapping with adjacent memory that children do not get. This is cheaper, because each fork must leave
// out each such mapping.
static int put_guard(char *memory)
{
    if (madvise(memory, GUARD, MADV_GUARD_INSTALL) == 0 || mprotect(memory, GUARD, PROT_NONE) == 0)
        return 0;
    return errno;
}

int forkcore_stack_open(struct forkcore_stack **stack)
{
    if (!CAN_SWITCH)
        return ENOTSUP;
    struct rlimit limit = {0};
    getrlimit(RLIMIT_STACK, &limit);
    size_t size = limit.rlim_cur > LARGEST ? LARGEST : (size_t)limit.rlim_cur & ~(size_t)(GUARD - 1);
    size = (size < LEAST ? LEAST : size) + GUARD;
    void *memory;
    int error = forkcore_parent_memory_open(size, &memory);
    if (error == ENOMEM && size > LEAST + GUARD) // for example with unlimited stacks, but a limit on all memory
        error = forkcore_parent_memory_open(size = LEAST + GUARD, &memory);
    if (error != 0)
        return error;
    error = put_guard(memory);
    if (error != 0) {
        forkcore_parent_memory_close(memory, size);
        return error;
    }
    // This struct changes with each fork, so it is in the stack itself.
    *stack = (struct forkcore_stack *)(void *)((char *)memory + size - sizeof **stack);
    (*stack)->size = size;
    return 0;
}

void forkcore_stack_close(struct forkcore_stack *stack)
{
    forkcore_parent_memory_close((char *)stack + sizeof *stack - stack->size, stack->size);
}

// Not inlined: nothing that a child needs may be below this frame.
__attribute__((noinline)) void forkcore_stack_run(struct forkcore_stack *stack, void (*body)(void *), void *context)
{
    if (!stack || top) { // `top`: a server that runs in a hook of another server
        body(context);
        return;
    }
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    stack->caller = (char *)(((uintptr_t)__builtin_frame_address(0) - GAP) & ~(page - 1));
    top = (const char *)stack;
    bottom = top + sizeof *stack - stack->size;
    forkcore_stack_switch((void *)((uintptr_t)stack & ~(uintptr_t)63), body, context);
    bottom = top = NULL;
}

// ------------------------------------------------------------------------------------------------------------- the fork

// Everything that a child needs, at the top of the page where its stack begins.
struct departure {
    struct forkcore_child_plan plan;
    struct forkcore_credentials credentials;
    int (*body)(const void *);
    pid_t pid;
    int error;
    int *too_many; // on the heap: the descriptors to close, if they are too many for that page
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
        forkcore_stack_begin(departure, live, departure);
}

// Also copies what `plan` points to, because that may be on the stack that the child does not have.
static struct departure *lay_out(const struct forkcore_stack *stack, const struct forkcore_child_plan *plan, size_t size)
{
    size_t list = plan->closing_count * sizeof *plan->closing;
    int *too_many = size + list > MOST ? malloc(list) : NULL;
    if (size + list > MOST && !too_many)
        return NULL;
    size_t whole = sizeof(struct departure) + size + (too_many ? 0 : list);
    struct departure *departure = (struct departure *)(((uintptr_t)stack->caller - whole) & ~(uintptr_t)63);
    *departure = (struct departure){.plan = *plan, .too_many = too_many};
    int *closing = too_many ? too_many : (int *)(void *)(departure->start + size);
    if (list > 0)
        memcpy(closing, plan->closing, list);
    departure->plan.closing = closing;
    if (plan->confinement.credentials) {
        departure->credentials = *plan->confinement.credentials;
        departure->plan.confinement.credentials = &departure->credentials;
    }
    return departure;
}

int forkcore_stack_fork(struct forkcore_stack *stack, const struct forkcore_child_plan *plan, const void *start, size_t size,
                        int (*body)(const void *), pid_t *child)
{
    if (size > MOST)
        return EINVAL;
    if (!stack || top != (const char *)stack) { // forkcore_stack_run has not switched to it
        int code = forkcore_fork(plan, child);
        if (code == 0 && *child == 0)
            forkcore_exit(body(start));
        return code;
    }
    struct departure *departure = lay_out(stack, plan, (size + sizeof(int) - 1) & ~(sizeof(int) - 1));
    if (!departure)
        return ENOMEM;
    departure->body = body;
    memcpy(departure->start, start, size);
    stack->is_departing = true;
    forkcore_stack_switch(departure, depart, departure);
    stack->is_departing = false;
    free(departure->too_many);
    *child = departure->pid;
    return departure->error;
}
