# SPDX-License-Identifier: Apache-2.0
#
# Net::Server's fork personality: forking.pl MAX_SERVERS.

package EchoServer;

use strict;
use warnings;
use base 'Net::Server::Fork';

sub process_request {
    my $client = shift->{server}{client};
    while (sysread $client, my $bytes, 16384) {
        syswrite $client, $bytes;
    }
}

sub pre_loop_hook {
    my $port = shift->{server}{sock}[0]->sockport;
    syswrite STDOUT, "listening on 127.0.0.1:$port\n";
}

EchoServer->run(
    host => '127.0.0.1', port => 0, ipv => 4, listen => 1024, max_servers => $ARGV[0], log_level => 1,
    user => $>, group => $),
);
