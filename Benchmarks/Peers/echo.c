// SPDX-License-Identifier: Apache-2.0
//
// What all the servers that execute a program execute: descriptor 0 back to descriptor 1 until end of stream.

#include <unistd.h>

int main(void)
{
    char bytes[16384];
    ssize_t count;
    while ((count = read(0, bytes, sizeof bytes)) > 0)
        for (ssize_t done = 0, sent; done < count; done += sent)
            if ((sent = write(1, bytes + done, (size_t)(count - done))) < 0)
                return 1;
    return count == 0 ? 0 : 1;
}
