// SPDX-License-Identifier: Apache-2.0

import Forking
import Glibc
import TestSupport

let serverScenarios: [String: @Sendable () throws -> Void] = [:]
