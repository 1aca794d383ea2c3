// SPDX-License-Identifier: Apache-2.0

/// Where a server is in its life. Policy alone; the loop acts on it.
enum Phase: Equatable {
    case serving
    case stopping(StopStep, until: Instant)
    case over

    var deadline: Instant? {
        if case .stopping(_, let until) = self { until } else { nil }
    }

    /// What a further signal, or a deadline that has come, leads to.
    var nextStep: StopStep {
        switch self {
        case .serving: .drain
        case .stopping(.drain, _): .terminate
        case .stopping, .over: .kill
        }
    }
}
