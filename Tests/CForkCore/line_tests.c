// SPDX-License-Identifier: Apache-2.0
//
// Lines that wait for nobody, signals that writing raises, and what a process was given at its start. A test that waits
// where it must not is ended by its deadline.

#include "test.h"

#include "forkcore_lines.h"

#include <limits.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>

static bool tell(int descriptor, const char *text)
{
    alarm(20);
    bool told = forkcore_tell(descriptor, text, strlen(text));
    alarm(0);
    return told;
}

// Writes lines until one is lost; returns how many were not.
static int fill(int descriptor)
{
    int count = 0;
    while (tell(descriptor, "a line that somebody is to read"))
        CHECK(++count < 1000000);
    return count;
}

// Reads all there is; what stands after the last newline but one is left in `last`.
static void drain(int descriptor, char *last, size_t size)
{
    static char bytes[1 << 16];
    size_t kept = 0;
    while (is_readable(descriptor, 100)) {
        ssize_t got = read(descriptor, bytes, sizeof bytes);
        if (got <= 0)
            break;
        size_t length = (size_t)got < size - 1 ? (size_t)got : size - 1;
        memcpy(last, bytes + got - length, length);
        kept = length;
    }
    last[kept] = '\0';
}

// What is written to a terminal comes to its other end a moment later, by a thread of the kernel's.
static void read_until(const char *wanted, int descriptor, char *text, size_t size)
{
    size_t count = 0;
    text[0] = '\0';
    while (!strstr(text, wanted) && is_readable(descriptor, 20000)) {
        ssize_t got = read(descriptor, text + count, size - 1 - count);
        if (got <= 0)
            break;
        count += (size_t)got;
        text[count] = '\0';
    }
}

static void expect_lost_and_told(int writing, int reading)
{
    char text[4096];
    int flags = fcntl(writing, F_GETFL);
    CHECK(fill(writing) > 10);
    // A terminal that was full may have room again when a thread of the kernel's has moved what is in it: then the lines
    // that were lost until then are told, and it is filled again.
    for (int lost = 1; lost < 5; lost++)
        if (tell(writing, "lost")) {
            fill(writing);
            lost = 0;
        }
    drain(reading, text, sizeof text);
    CHECK(tell(writing, "heard"));
    drain(reading, text, sizeof text);
    CHECK(strstr(text, "5 lines were lost") != NULL && strstr(text, "heard") != NULL);
    CHECK(tell(writing, "again"));
    drain(reading, text, sizeof text);
    CHECK(strstr(text, "lost") == NULL && strstr(text, "again") != NULL);
    CHECK(fcntl(writing, F_GETFL) == flags); // the description is others' too
}

static void a_full_pipe(void)
{
    int ends[2];
    CHECK(pipe(ends) == 0);
    expect_lost_and_told(ends[1], ends[0]);
    close(ends[0]);
    close(ends[1]);
}

static void a_fifo_that_nobody_reads(void)
{
    char path[] = "/tmp/forkcore-XXXXXX";
    CHECK(mkdtemp(path) != NULL);
    char fifo[64];
    snprintf(fifo, sizeof fifo, "%s/fifo", path);
    CHECK(mkfifo(fifo, 0600) == 0);
    int both = open(fifo, O_RDWR | O_CLOEXEC);
    CHECK(both >= 0);
    unlink(fifo);
    rmdir(path);
    expect_lost_and_told(both, both);
    close(both);
}

static void a_socket(void)
{
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    expect_lost_and_told(ends[1], ends[0]);
    close(ends[0]);
    CHECK(!tell(ends[1], "nobody")); // and no SIGPIPE
    close(ends[1]);
}

static void open_terminal(int ends[2])
{
    ends[0] = posix_openpt(O_RDWR | O_NOCTTY);
    CHECK(ends[0] >= 0 && grantpt(ends[0]) == 0 && unlockpt(ends[0]) == 0);
    ends[1] = open(ptsname(ends[0]), O_RDWR | O_NOCTTY);
    CHECK(ends[1] >= 0);
}

static void a_stopped_terminal(void)
{
    int ends[2];
    char text[4096];
    open_terminal(ends);
    CHECK(tell(ends[1], "before"));
    CHECK(tcflow(ends[1], TCOOFF) == 0); // ^S
    CHECK(!tell(ends[1], "stopped"));
    CHECK(tcflow(ends[1], TCOON) == 0);
    CHECK(tell(ends[1], "after"));
    read_until("after", ends[0], text, sizeof text);
    CHECK(strstr(text, "1 line was lost") != NULL && strstr(text, "after") != NULL && strstr(text, "stopped") == NULL);
    expect_lost_and_told(ends[1], ends[0]);
    close(ends[0]);
    close(ends[1]);
}

static int tell_from_behind(void *context)
{
    signal(SIGTTOU, SIG_DFL);
    setpgid(0, 0);
    return tell(*(int *)context, "from behind") ? 0 : 1;
}

// Leads a session, has the terminal, and a child in its background.
static int lead(void *context)
{
    int *ends = context, status;
    struct termios modes;
    if (setsid() < 0 || ioctl(ends[1], TIOCSCTTY, 0) != 0 || tcgetattr(ends[1], &modes) != 0)
        return 2;
    modes.c_lflag |= TOSTOP;
    if (tcsetattr(ends[1], TCSANOW, &modes) != 0)
        return 3;
    pid_t child = fork();
    if (child == 0)
        _exit(tell_from_behind(&ends[1]));
    if (waitpid(child, &status, WUNTRACED) != child)
        return 4;
    if (WIFSTOPPED(status))
        kill(child, SIGKILL);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 5;
}

static void a_terminal_under_tostop(void)
{
    int ends[2];
    char text[4096];
    open_terminal(ends);
    CHECK(await_end(start(NULL, lead, ends)).code == 0);
    read_until("from behind", ends[0], text, sizeof text);
    CHECK(strstr(text, "from behind") != NULL);
    close(ends[0]);
    close(ends[1]);
}

static void a_long_line(void)
{
    static char text[3 * PIPE_BUF], got[3 * PIPE_BUF];
    int ends[2];
    CHECK(pipe(ends) == 0);
    memset(text, 'x', sizeof text);
    CHECK(forkcore_tell(ends[1], text, sizeof text));
    ssize_t count = read(ends[0], got, sizeof got);
    CHECK(count == PIPE_BUF && memcmp(got + count - 5, "x...\n", 5) == 0);
    for (size_t i = 0; i + 1 < sizeof text; i += 2)
        memcpy(text + i, "\xc3\xbc", 2);
    CHECK(forkcore_tell(ends[1], text, sizeof text));
    count = read(ends[0], got, sizeof got);
    CHECK(count > PIPE_BUF - 3 && memcmp(got + count - 6, "\xc3\xbc...\n", 6) == 0);
    close(ends[0]);
    close(ends[1]);
}

static int tell_once(void *context)
{
    return tell(*(int *)context, "a child's") ? 0 : 1;
}

static void a_child_has_lost_nothing_yet(void)
{
    int ends[2];
    char text[4096];
    CHECK(pipe(ends) == 0);
    fill(ends[1]); // the last one is lost
    drain(ends[0], text, sizeof text);
    CHECK(await_end(start(NULL, tell_once, &ends[1])).code == 0);
    drain(ends[0], text, sizeof text);
    CHECK(strcmp(text, "a child's\n") == 0);
    CHECK(tell(ends[1], "heard"));
    drain(ends[0], text, sizeof text);
    CHECK(strcmp(text, "1 line was lost\nheard\n") == 0);
    close(ends[0]);
    close(ends[1]);
}

static void nothing_there(void)
{
    int ends[2];
    CHECK(!tell(77, "closed"));
    CHECK(pipe(ends) == 0);
    close(ends[0]);
    CHECK(!tell(ends[1], "nobody")); // and no SIGPIPE
    close(ends[1]);
    int null = open("/dev/null", O_WRONLY);
    CHECK(tell(null, "away"));
    close(null);
}

static void a_limit_of_files(void)
{
    char path[] = "/tmp/forkcore-XXXXXX", text[100] = "";
    int file = mkstemp(path);
    struct rlimit limit;
    CHECK(file >= 0);
    unlink(path);
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = 10;
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHECK(tell(file, "123456789"));
    CHECK(!tell(file, "more")); // and no SIGXFSZ
    CHECK(forkcore_write_all(file, "more", 4) == EFBIG);
    CHECK(!is_blocked(SIGXFSZ) && !is_blocked(SIGPIPE) && !is_blocked(SIGTTOU));
    CHECK(ftruncate(file, 0) == 0 && lseek(file, 0, SEEK_SET) == 0);
    CHECK(forkcore_write_all(file, "0123456789", 10) == 0);
    CHECK(pread(file, text, sizeof text, 0) == 10);
    // One that had come before is the host's.
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGXFSZ);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGXFSZ);
    CHECK(forkcore_write_all(file, "more", 4) == EFBIG);
    sigpending(&set);
    CHECK(sigismember(&set, SIGXFSZ));
    close(file);
}

static void do_nothing(int number) { (void)number; }

static void writes_are_guarded_and_no_more(void)
{
    struct sigaction action;
    sigset_t set;
    uint64_t both = bit(SIGPIPE) | bit(SIGXFSZ);
    CHECK(forkcore_guard_writes() == both);
    raise(SIGPIPE);
    raise(SIGXFSZ);
    CHECK(forkcore_guard_writes() == 0);
    forkcore_unguard_writes(both);
    sigpending(&set);
    CHECK(!sigismember(&set, SIGXFSZ));
    sigprocmask(SIG_BLOCK, NULL, &set);
    CHECK(!sigismember(&set, SIGXFSZ));
    sigaction(SIGPIPE, NULL, &action);
    CHECK(action.sa_handler == SIG_DFL);
    sigaction(SIGPIPE, &(struct sigaction){.sa_handler = do_nothing}, NULL);
    CHECK(forkcore_guard_writes() == bit(SIGXFSZ));
    sigaction(SIGPIPE, NULL, &action);
    CHECK(action.sa_handler == do_nothing);
}

static void arguments_are_there(void)
{
    int count;
    char **arguments = forkcore_arguments(&count);
    CHECK(count >= 1 && strstr(arguments[0], "test") != NULL && arguments[count] == NULL);
}

static int occupy(void *context)
{
    int *kept = context;
    for (int number = 0; number <= 2; number++)
        if (number != *kept)
            close(number);
    forkcore_occupy_standard_descriptors();
    for (int number = 0; number <= 2; number++)
        if (fcntl(number, F_GETFD) != 0)
            return 1;
    return open("/", O_RDONLY) > 2 ? 0 : 2;
}

static void standard_descriptors_are_occupied(void)
{
    for (int kept = -1; kept <= 2; kept++)
        CHECK(await_end(start(NULL, occupy, &kept)).code == 0);
}

const struct test line_tests[] = {
    {"a full pipe loses lines, and is told how many", a_full_pipe},
    {"a FIFO that nobody reads", a_fifo_that_nobody_reads},
    {"a socket that nobody reads", a_socket},
    {"a stopped terminal, and a full one", a_stopped_terminal},
    {"a terminal under tostop does not stop who writes a line", a_terminal_under_tostop},
    {"a long line is cut, but no character", a_long_line},
    {"a child tells of no line that its parent has lost", a_child_has_lost_nothing_yet},
    {"a descriptor that is closed, and one that nobody reads any more", nothing_there},
    {"RLIMIT_FSIZE is an error, not an end", a_limit_of_files},
    {"signals of writing are ignored and given back", writes_are_guarded_and_no_more},
    {"arguments are there", arguments_are_there},
    {"standard descriptors are occupied", standard_descriptors_are_occupied},
    {NULL, NULL},
};
