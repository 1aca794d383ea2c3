// SPDX-License-Identifier: Apache-2.0

public import SystemPackage

/// Why a call of a `Zygote`'s has no answer. Its `description` is one line for people.
public enum ZygoteError: Error, Hashable, Sendable {
    /// The handler threw this.
    case threw(type: String, description: String)
    /// The child ended before it had answered: by a trap, a signal, or exit(3).
    case ended(ExitStatus)
    /// The deadline passed, and the child was killed, if the call had one already. From the call's begin, waiting included.
    case deadline(Duration)
    /// `cancel()` was called, and the child was killed.
    case cancelled
    /// As many children as there may be, and as many calls waiting for one of their places.
    case full(children: Int, waiting: Int)
    /// The zygote ended while it had the call, or there is none at the moment. A new one is started for the next call, at
    /// once, or after the time that is said here.
    case lost(nextStart: Duration?)
    /// The zygote was shut down.
    case shutDown
    /// There is no handler of this name.
    case noHandler(String, known: [String])
    /// What `Zygote.Limits` ask for is not to be had here: the call that refused, and why.
    case limitRefused(call: String, Errno)
    /// Host, zygote or child lacked something: a process, a descriptor, memory.
    case system(call: String, Errno)
    /// The request or the answer cannot be what it is.
    case invalid(String)
}

extension ZygoteError: CustomStringConvertible {
    /// One line for people, without a newline.
    public var description: String {
        switch self {
        case .threw(let type, let text):
            "the handler threw " + Self.told(type) + ": " + Self.told(text)
        case .ended(let status): "the child ended before it had answered: \(status)"
        case .deadline(let time): "no answer within \(time.inSeconds), waiting for a place included"
        case .cancelled: "the call was cancelled"
        case .full(let children, let waiting): "\(children) children are busy, and \(waiting) calls wait: no more can"
        case .lost(nil): "the zygote ended; the next call starts another"
        case .lost(let pause?): "the zygote ended before it was ready; the next start is in \(pause.inSeconds)"
        case .shutDown: "the zygote was shut down"
        case .noHandler(let name, let known):
            "there is no handler '\(Self.told(name))'; there is "
                + (known.isEmpty ? "none" : Self.told(known.joined(separator: ", ")))
        case .limitRefused(let call, let code): "a limit cannot be had here: \(Self.told(call)): \(code)"
        case .system(let call, let code): "\(Self.told(call)): \(code)"
        case .invalid(let text): Self.told(text)
        }
    }

    /// A child's own words, which may be its attacker's: they can neither end the line nor be of any length.
    private static func told(_ text: String) -> String { SocketAddress.printable(text, atMost: 1000) }
}
