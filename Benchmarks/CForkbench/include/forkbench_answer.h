// SPDX-License-Identifier: Apache-2.0
//
// HTTP answers as they come in, piece by piece. None of these functions makes a system call.

#ifndef FORKBENCH_ANSWER_H
#define FORKBENCH_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FORKBENCH_HEAD_ROOM = 8192 };

/// An answer to a GET, as it comes in.
struct forkbench_answer {
    size_t received;      ///< bytes of all parts; 0: nothing has come yet
    int status;           ///< 0: its head is not complete yet
    bool closes;          ///< the server closes after it
    bool is_complete;
    int failure;          ///< EPROTO once it cannot be an answer any more
    // Private to the functions below.
    int part;             ///< of the body: what comes next
    uint64_t left;        ///< of the body, or of this chunk
    size_t line;          ///< bytes of this line so far, where a chunked body has lines
    size_t head_length;
    char head[FORKBENCH_HEAD_ROOM + 1];
};

/// For the next answer.
void forkbench_answer_begin(struct forkbench_answer *answer);
/// Takes what has come. After it: `failure` (wrong, or more than one answer), `is_complete`, or neither.
void forkbench_answer_take(struct forkbench_answer *answer, const char *bytes, size_t count);
/// Takes the end of stream: whether the answer is complete by it.
bool forkbench_answer_end(struct forkbench_answer *answer);

#endif
