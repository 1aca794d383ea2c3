// SPDX-License-Identifier: Apache-2.0
//
// As much of RFC 9112 as an answer to a GET can show: a body with Content-Length, in chunks, or up to the close; none
// with 204 and 304; interim answers (1xx) before it.

#define _GNU_SOURCE

#include "forkbench_answer.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum part {
    BODY_COUNTED, // `left` bytes
    BODY_UNTIL_CLOSE,
    CHUNK_SIZE, // of a chunked body, as all that follow
    CHUNK,
    CHUNK_END,
    TRAILER,
};

void forkbench_answer_begin(struct forkbench_answer *answer)
{
    // Not the head's 8 KiB: they would be most of what a request costs.
    memset(answer, 0, offsetof(struct forkbench_answer, head));
    answer->head[0] = 0;
}

// -------------------------------------------------------------------------------------------------------- the head

// What stands behind the colon of the field that begins here, or NULL if it is another one.
static const char *value_of(const char *line, const char *name)
{
    size_t length = strlen(name);
    if (strncasecmp(line, name, length) != 0 || line[length] != ':')
        return NULL;
    return line + length + 1 + strspn(line + length + 1, " \t");
}

// Whether a list such as `keep-alive, Upgrade`, which ends with its line, has this word.
static bool has_word(const char *list, const char *word)
{
    size_t length = strlen(word);
    while (*list != '\r') {
        list += strspn(list, " \t,");
        size_t item = strcspn(list, " \t,\r");
        if (item == length && strncasecmp(list, word, length) == 0)
            return true;
        list += item;
    }
    return false;
}

static void take_field(struct forkbench_answer *answer, const char *line, bool *has_length, bool *is_chunked)
{
    const char *value;
    if ((value = value_of(line, "Content-Length")) != NULL) {
        char *end;
        *has_length = true;
        answer->left = strtoull(value, &end, 10);
        if (!isdigit((unsigned char)*value) || end[strspn(end, " \t")] != '\r')
            answer->failure = EPROTO;
    } else if ((value = value_of(line, "Connection")) != NULL) {
        if (has_word(value, "close"))
            answer->closes = true;
        else if (has_word(value, "keep-alive"))
            answer->closes = false;
    } else if ((value = value_of(line, "Transfer-Encoding")) != NULL) {
        *is_chunked = has_word(value, "chunked");
    }
}

static void read_head(struct forkbench_answer *answer)
{
    char *head = answer->head;
    if (strncmp(head, "HTTP/1.", 7) != 0 || !isdigit((unsigned char)head[7]) || head[8] != ' ') {
        answer->failure = EPROTO;
        return;
    }
    answer->closes = head[7] == '0';
    answer->status = atoi(head + 9);
    if (answer->status < 100 || answer->status > 999)
        answer->failure = EPROTO;
    bool has_length = false, is_chunked = false;
    for (char *end = strstr(head, "\r\n"); end[2] != '\r'; end = strstr(end + 2, "\r\n"))
        take_field(answer, end + 2, &has_length, &is_chunked);
    if (answer->status == 204 || answer->status == 304)
        answer->left = 0;
    else if (is_chunked)
        answer->part = CHUNK_SIZE;
    else if (!has_length)
        answer->part = BODY_UNTIL_CLOSE;
    if (answer->part == CHUNK_SIZE || answer->part == BODY_UNTIL_CLOSE)
        answer->left = 0;
    if (answer->part == BODY_UNTIL_CLOSE)
        answer->closes = true;
    answer->is_complete = answer->part == BODY_COUNTED && answer->left == 0;
}

// How many of the bytes belong to the head.
static size_t take_head(struct forkbench_answer *answer, const char *bytes, size_t count)
{
    size_t before = answer->head_length;
    size_t taken = count < FORKBENCH_HEAD_ROOM - before ? count : FORKBENCH_HEAD_ROOM - before;
    memcpy(answer->head + before, bytes, taken);
    answer->head[before + taken] = 0;
    answer->head_length += taken;
    // It may have ended with the first of these bytes.
    char *end = strstr(answer->head + (before > 3 ? before - 3 : 0), "\r\n\r\n");
    if (end == NULL) {
        bool is_hopeless = answer->head_length == FORKBENCH_HEAD_ROOM || memchr(answer->head, 0, answer->head_length) != NULL;
        answer->failure = is_hopeless ? EPROTO : 0;
        return taken;
    }
    end[4] = 0;
    read_head(answer);
    if (answer->status / 100 == 1) { // the answer itself follows
        size_t received = answer->received;
        forkbench_answer_begin(answer);
        answer->received = received;
    }
    return (size_t)(end + 4 - answer->head) - before;
}

// -------------------------------------------------------------------------------------------------------- the body

static void end_line(struct forkbench_answer *answer)
{
    if (answer->part == CHUNK_END)
        answer->part = CHUNK_SIZE;
    else if (answer->part == CHUNK_SIZE)
        answer->part = answer->left > 0 ? CHUNK : TRAILER;
    else
        answer->is_complete = answer->line == 0;
    answer->line = 0;
}

// A chunk's size, the end of line behind a chunk, or the trailer, byte by byte. Extensions of a size are passed over.
static void take_framing(struct forkbench_answer *answer, char byte)
{
    if (byte == '\n') {
        if (answer->part == CHUNK_SIZE && answer->line == 0)
            answer->failure = EPROTO;
        end_line(answer);
        return;
    }
    if (byte == '\r')
        return;
    if (answer->part == CHUNK_SIZE && isxdigit((unsigned char)byte) && answer->line < 15) {
        int digit = isdigit((unsigned char)byte) ? byte - '0' : tolower(byte) - 'a' + 10;
        answer->left = answer->left * 16 + (uint64_t)digit;
    } else if (answer->part == CHUNK_END || (answer->part == CHUNK_SIZE && answer->line == 0)) {
        answer->failure = EPROTO;
    } else if (answer->part == CHUNK_SIZE) {
        answer->line = 15; // what follows is no digit of the size
    }
    answer->line++;
}

// How many of the bytes belong to the body's present part.
static size_t take_body(struct forkbench_answer *answer, const char *bytes, size_t count)
{
    if (answer->part == BODY_UNTIL_CLOSE)
        return count;
    if (answer->part != BODY_COUNTED && answer->part != CHUNK) {
        take_framing(answer, *bytes);
        return 1;
    }
    size_t taken = count < answer->left ? count : (size_t)answer->left;
    answer->left -= taken;
    if (answer->left == 0 && answer->part == CHUNK)
        answer->part = CHUNK_END;
    else if (answer->left == 0)
        answer->is_complete = true;
    return taken;
}

void forkbench_answer_take(struct forkbench_answer *answer, const char *bytes, size_t count)
{
    answer->received += count;
    while (count > 0 && answer->failure == 0) {
        if (answer->is_complete) { // nobody has asked for more
            answer->failure = EPROTO;
            return;
        }
        size_t taken = answer->status == 0 ? take_head(answer, bytes, count) : take_body(answer, bytes, count);
        bytes += taken;
        count -= taken;
    }
}

bool forkbench_answer_end(struct forkbench_answer *answer)
{
    return answer->is_complete || (answer->failure == 0 && answer->status != 0 && answer->part == BODY_UNTIL_CLOSE);
}
