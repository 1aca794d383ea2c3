// SPDX-License-Identifier: Apache-2.0

import Glibc

/// A signal. See signal(7). Any process.
public struct Signal: RawRepresentable, Hashable, Sendable {
    /// The number, as in `SIGTERM`.
    public let rawValue: Int32

    /// Accepts any number; an invalid one makes the call that uses it fail.
    public init(rawValue: Int32) { self.rawValue = rawValue }

    /// SIGHUP
    public static let hangup = Signal(rawValue: SIGHUP)
    /// SIGINT
    public static let interrupt = Signal(rawValue: SIGINT)
    /// SIGQUIT
    public static let quit = Signal(rawValue: SIGQUIT)
    /// SIGILL
    public static let illegalInstruction = Signal(rawValue: SIGILL)
    /// SIGTRAP
    public static let trap = Signal(rawValue: SIGTRAP)
    /// SIGABRT
    public static let abort = Signal(rawValue: SIGABRT)
    /// SIGBUS
    public static let busError = Signal(rawValue: SIGBUS)
    /// SIGFPE
    public static let arithmetic = Signal(rawValue: SIGFPE)
    /// SIGKILL
    public static let kill = Signal(rawValue: SIGKILL)
    /// SIGUSR1
    public static let userDefinedOne = Signal(rawValue: SIGUSR1)
    /// SIGSEGV
    public static let segmentationFault = Signal(rawValue: SIGSEGV)
    /// SIGUSR2
    public static let userDefinedTwo = Signal(rawValue: SIGUSR2)
    /// SIGPIPE
    public static let brokenPipe = Signal(rawValue: SIGPIPE)
    /// SIGXFSZ
    public static let fileSizeLimit = Signal(rawValue: SIGXFSZ)
    /// SIGALRM
    public static let alarm = Signal(rawValue: SIGALRM)
    /// SIGTERM
    public static let terminate = Signal(rawValue: SIGTERM)
    /// SIGCHLD
    public static let child = Signal(rawValue: SIGCHLD)
    /// SIGCONT
    public static let `continue` = Signal(rawValue: SIGCONT)
    /// SIGTTIN
    public static let ttyInput = Signal(rawValue: SIGTTIN)
    /// SIGTTOU
    public static let ttyOutput = Signal(rawValue: SIGTTOU)
    /// SIGSTOP
    public static let stop = Signal(rawValue: SIGSTOP)

    /// The signals by which a process ends when its own code fails. Swift's backtraces are printed on these.
    static let crashes: SignalSet = [
        .illegalInstruction, .trap, .abort, .busError, .arithmetic, .segmentationFault, .quit,
    ]
}

extension Signal: CustomStringConvertible {
    /// `SIGTERM`, or `signal 34` for a signal without a name.
    public var description: String {
        Self.names[rawValue].map { "SIG" + $0 } ?? "signal \(rawValue)"
    }

    // strsignal(3) returns sentences; sigabbrev_np(3) is not visible in Swift, and musl lacks it.
    private static let names: [Int32: String] = [
        SIGHUP: "HUP", SIGINT: "INT", SIGQUIT: "QUIT", SIGILL: "ILL", SIGTRAP: "TRAP", SIGABRT: "ABRT", SIGBUS: "BUS",
        SIGFPE: "FPE", SIGKILL: "KILL", SIGUSR1: "USR1", SIGSEGV: "SEGV", SIGUSR2: "USR2", SIGPIPE: "PIPE",
        SIGALRM: "ALRM", SIGTERM: "TERM", SIGSTKFLT: "STKFLT", SIGCHLD: "CHLD", SIGCONT: "CONT", SIGSTOP: "STOP",
        SIGTSTP: "TSTP", SIGTTIN: "TTIN", SIGTTOU: "TTOU", SIGURG: "URG", SIGXCPU: "XCPU", SIGXFSZ: "XFSZ",
        SIGVTALRM: "VTALRM", SIGPROF: "PROF", SIGWINCH: "WINCH", SIGIO: "IO", SIGPWR: "PWR", SIGSYS: "SYS",
    ]
}

/// A set of signals as the C core takes it: bit n-1 for signal n.
struct SignalSet: OptionSet {
    var rawValue: UInt64

    init(rawValue: UInt64) { self.rawValue = rawValue }

    init(_ signals: some Sequence<Signal>) {
        rawValue = signals.reduce(0) { $0 | 1 << UInt64($1.rawValue - 1) }
    }
}

extension SignalSet: ExpressibleByArrayLiteral {
    init(arrayLiteral signals: Signal...) { self.init(signals) }
}
