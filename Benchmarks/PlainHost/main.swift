// SPDX-License-Identifier: Apache-2.0
//
// A host with one thread, and without Foundation.

import ForkbenchHost

Host.run()
