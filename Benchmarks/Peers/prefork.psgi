# SPDX-License-Identifier: Apache-2.0
#
# What Starman serves.

use strict;
use warnings;

my $headers = ['Content-Type' => 'text/plain', 'Content-Length' => 6];
sub { [200, $headers, ["hello\n"]] };
