// SPDX-License-Identifier: Apache-2.0

#ifndef FORKBENCH_HTTP_ANSWER_H
#define FORKBENCH_HTTP_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HEAD_ROOM = 8192 };

/// An answer to a GET, as it comes in.
struct http_answer {
    size_t received;      ///< bytes of all parts; 0: nothing has come yet
    int status;           ///< 0: its head is not complete yet
    bool closes;          ///< the server closes after it
    bool is_complete;
    int failure;          ///< EPROTO once it cannot be an answer any more
    enum {
        BODY_COUNTED,     ///< `left` bytes
        BODY_UNTIL_CLOSE,
        CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER, ///< of a chunked body
    } part;
    uint64_t left;        ///< of the body, or of this chunk
    size_t line;          ///< bytes of this line so far, in CHUNK_SIZE and TRAILER
    size_t head_length;
    char head[HEAD_ROOM + 1];
};

/// For the next answer.
void http_answer_begin(struct http_answer *answer);
/// Takes what has come. After it: `failure` (wrong, or more than one answer), `is_complete`, or neither.
void http_answer_take(struct http_answer *answer, const char *bytes, size_t count);
/// Takes the end of stream: whether the answer is complete by it.
bool http_answer_end(struct http_answer *answer);

#endif
