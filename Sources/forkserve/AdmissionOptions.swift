// SPDX-License-Identifier: Apache-2.0
//
// The command line's process, before it serves: parses options. It starts no thread.

import ArgumentParser
import Forking

/// Who is served, and how much of the server one source may have.
struct AdmissionOptions: ParsableArguments {
    /// The texts of the options, for a `Job`.
    struct Values: Equatable {
        var perSource: String?
        var rate: String?
        var totalRate: String?
        var penalty: String?
        var earlyDrop: String?
        var reserve: [String] = []
        var allow: [String] = []
        var deny: [String] = []
        var rules: String?
        var refuseWith: String?

        mutating func code(_ coder: inout FieldCoder) {
            coder.field(&perSource)
            coder.field(&rate)
            coder.field(&totalRate)
            coder.field(&penalty)
            coder.field(&earlyDrop)
            coder.field(&reserve)
            coder.field(&allow)
            coder.field(&deny)
            coder.field(&rules)
            coder.field(&refuseWith)
        }
    }

    @Option(
        help: ArgumentHelp(
            """
            How many clients of one source are served at once. A source is an IPv4 address, an IPv6 network of 64 bits \
            (other prefixes: 8/24/48), or the user at the other end of a Unix socket. By default there is no limit.
            """,
            valueName: "n[/v4/v6]"))
    var perSource: String?
    @Option(
        help: ArgumentHelp(
            """
            How often clients of one source are served, such as 20/s:40: 20 in a second, 40 at once after a pause. Also \
            per /m (minute) or /h (hour). By default there is no limit.
            """,
            valueName: "n/s[:burst]"))
    var rate: String?
    @Option(
        help: ArgumentHelp(
            "The same for all clients together. Further ones wait in the kernel's queue.", valueName: "n/s[:burst]"))
    var totalRate: String?
    @Option(
        help: ArgumentHelp(
            """
            For how many seconds a source is refused after a process of its crashed, exceeded --timeout, or exited with \
            a status: crash=90,timeout=30,exit7=60. These add up. A source is not refused before it has min=15, and has \
            at most max=600.
            """,
            valueName: "what=seconds,..."))
    var penalty: String?
    @Option(
        help: ArgumentHelp(
            """
            Refuse clients at random before all processes are in use: from BEGIN clients on PERCENT of them, more the \
            more there are, and all from FULL on, such as 10:30:100.
            """,
            valueName: "begin:percent:full"))
    var earlyDrop: String?
    @Option(
        help: ArgumentHelp(
            """
            Keep N of --max-children for clients from a range of addresses, such as 5=10.0.0.0/8, or of a user at the \
            other end of a Unix socket, such as 2=uid:0. Can be repeated.
            """,
            valueName: "n=range|n=uid:user"))
    var reserve: [String] = []
    @Option(
        help: ArgumentHelp(
            """
            Serve only clients from this range of addresses, such as 192.0.2.0/24. Can be repeated. The narrowest range \
            of --allow and --deny that has a client in it decides.
            """,
            valueName: "range"))
    var allow: [String] = []
    @Option(
        help: ArgumentHelp("Refuse clients from this range of addresses. Can be repeated.", valueName: "range"))
    var deny: [String] = []
    @Option(
        help: ArgumentHelp(
            """
            A file with further ranges, a line each: 'allow RANGE' or 'deny RANGE'; # begins a comment. It is read again \
            when it has changed, and on SIGHUP.
            """,
            valueName: "file"))
    var rules: String?
    @Option(
        help: ArgumentHelp(
            "Send this line to clients that are refused. By default their connection just ends.", valueName: "text"))
    var refuseWith: String?

    var values: Values {
        Values(
            perSource: perSource, rate: rate, totalRate: totalRate, penalty: penalty, earlyDrop: earlyDrop,
            reserve: reserve, allow: allow, deny: deny, rules: rules, refuseWith: refuseWith)
    }

    func check() throws {
        do throws(ForkingError) { _ = try values.policy() } catch { throw ValidationError(error.description) }
    }
}

extension AdmissionOptions.Values {
    /// Nil if no option was given.
    func policy() throws(ForkingError) -> AdmissionPolicy? {
        guard self != AdmissionOptions.Values() else { return nil }
        var policy = AdmissionPolicy()
        if let perSource { try Self.parse(perSource, into: &policy) }
        policy.rate = try rate.map { (text) throws(ForkingError) in try Self.rate("--rate", text) }
        policy.totalRate = try totalRate.map { (text) throws(ForkingError) in try Self.rate("--total-rate", text) }
        if let penalty { policy.penalties = try Self.penalties(penalty) }
        policy.earlyDrop = try earlyDrop.map(Self.earlyDrop)
        for text in reserve { policy.reservations.append(try Self.reservation(text)) }
        policy.rules = AddressRules(
            allow: try Self.ranges("--allow", allow), deny: try Self.ranges("--deny", deny))
        policy.rulesFile = rules
        if let refuseWith { policy.refusal = .send(Arguments.bytes(of: refuseWith) + [UInt8(ascii: "\n")]) }
        return policy
    }

    private static func parse(_ text: String, into policy: inout AdmissionPolicy) throws(ForkingError) {
        let numbers = text.split(separator: "/", omittingEmptySubsequences: false).map { Int($0) }
        guard numbers.count == 1 || numbers.count == 3, let most = numbers[0], most > 0,
            numbers.count == 1 || (0...32).contains(numbers[1] ?? -1) && (0...128).contains(numbers[2] ?? -1)
        else {
            throw .invalid(
                "--per-source is '\(shown(text))', and must be a number, such as 8, or a number and the prefixes of IPv4 "
                    + "and IPv6, such as 8/24/48")
        }
        policy.maxPerSource = most
        if numbers.count == 3 { (policy.ipv4Prefix, policy.ipv6Prefix) = (numbers[1]!, numbers[2]!) }
    }

    private static func rate(_ option: String, _ text: String) throws(ForkingError) -> AdmissionPolicy.Rate {
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        let units: [Substring: Double] = ["s": 1, "m": 60, "h": 3600]
        let rate = parts[0].split(separator: "/", omittingEmptySubsequences: false)
        guard rate.count == 2, let count = Double(rate[0]), count > 0, count <= 1e9, let unit = units[rate[1]],
            parts.count == 1 || (Int(parts[1]) ?? 0) > 0, count / unit >= 1e-6
        else {
            throw .invalid(
                "\(option) is '\(shown(text))', and must be a number per s, m or h, and the number that may come at "
                    + "once, such as 20/s:40")
        }
        return AdmissionPolicy.Rate(perSecond: count / unit, burst: parts.count == 2 ? Int(parts[1]) : nil)
    }

    private static func penalties(_ text: String) throws(ForkingError) -> AdmissionPolicy.Penalties {
        var penalties = AdmissionPolicy.Penalties()
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            let pair = part.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard pair.count == 2, let number = Double(pair[1]), (0...1e9).contains(number) else {
                throw wrongPenalty(part)
            }
            let time = Duration.seconds(number)
            switch pair[0] {
            case "crash": penalties.crash = time
            case "timeout": penalties.timeout = time
            case "min": penalties.least = time
            case "max": penalties.most = time
            case let name where name.hasPrefix("exit"):
                guard let status = UInt8(name.dropFirst(4)) else { throw wrongPenalty(part) }
                penalties.statuses[Int32(status)] = time
            default: throw wrongPenalty(part)
            }
        }
        guard penalties.least <= penalties.most else {
            throw .invalid("--penalty has min above max: the seconds of min are needed before a source is refused")
        }
        return penalties
    }

    private static func wrongPenalty(_ part: Substring) -> ForkingError {
        .invalid(
            "'\(shown(String(part)))' in --penalty is not one of crash=SECONDS, timeout=SECONDS, exitSTATUS=SECONDS, "
                + "min=SECONDS, max=SECONDS")
    }

    private static func earlyDrop(_ text: String) throws(ForkingError) -> AdmissionPolicy.EarlyDrop {
        let numbers = text.split(separator: ":", omittingEmptySubsequences: false).map { Int($0) }
        guard numbers.count == 3, let begin = numbers[0], let percent = numbers[1], let full = numbers[2], begin >= 0,
            full > begin, (0...100).contains(percent)
        else {
            throw .invalid(
                "--early-drop is '\(shown(text))', and must be BEGIN:PERCENT:FULL with BEGIN below FULL, such as "
                    + "10:30:100")
        }
        return AdmissionPolicy.EarlyDrop(begin: begin, percent: percent, full: full)
    }

    private static func reservation(_ text: String) throws(ForkingError) -> AdmissionPolicy.Reservation {
        let pair = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        guard pair.count == 2, let count = Int(pair[0]), count > 0 else {
            throw .invalid(
                "--reserve is '\(shown(text))', and must be a number and for whom, such as 5=10.0.0.0/8 or 2=uid:0")
        }
        guard pair[1].hasPrefix("uid:") else {
            return AdmissionPolicy.Reservation(count, for: .addresses(try ranges("--reserve", [String(pair[1])])[0]))
        }
        guard let user = UInt32(pair[1].dropFirst(4)) else {
            throw .invalid("--reserve is '\(shown(text))', and after uid: must be a number, such as 2=uid:0")
        }
        return AdmissionPolicy.Reservation(count, for: .user(user))
    }

    private static func ranges(_ option: String, _ texts: [String]) throws(ForkingError) -> [AddressRange] {
        var ranges: [AddressRange] = []
        for text in texts {
            do throws(ForkingError) {
                ranges.append(try AddressRange(parsing: text))
            } catch {
                throw .invalid("\(option): \(error)")
            }
        }
        return ranges
    }

    private static func shown(_ text: String) -> String { ForkingError.printable(text) }
}
