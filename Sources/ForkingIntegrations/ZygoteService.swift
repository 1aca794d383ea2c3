// SPDX-License-Identifier: Apache-2.0

import Forking
import ForkingAsync
import ServiceLifecycle
