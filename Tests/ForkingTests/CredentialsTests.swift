// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("Credentials")
struct CredentialsTests {
    private static let users = AccountFile([
        "root:x:0:0:root:/root:/bin/bash", "www:x:33:34:,,,:/var/www:/usr/sbin/nologin", "77:x:8:9::/:/bin/sh",
        "bad:x:y:1", "",
        ":x:5:5::/:",
    ])
    private static let groups = AccountFile([
        "root:x:0:", "www:x:34:", "tape:x:26:other,www", "audio:x:29:www", "staff:x:50:wwwx", "broken",
    ])

    private func parse(_ text: String) throws(ForkingError) -> Credentials {
        try Credentials(parsing: text, users: Self.users, groups: Self.groups)
    }

    @Test("a user's own group, and those that it is a member of")
    func user() throws {
        #expect(try parse("www") == Credentials(user: 33, group: 34, supplementaryGroups: [34, 26, 29]))
        #expect(try parse("33") == parse("www"))
        #expect(try parse("root") == Credentials(user: 0, group: 0, supplementaryGroups: [0]))
    }

    @Test("a name goes before a number")
    func nameOfDigits() throws { #expect(try parse("77").user == 8) }

    @Test("another group, by name or number")
    func group() throws {
        #expect(try parse("www:audio") == Credentials(user: 33, group: 29, supplementaryGroups: [26, 29]))
        #expect(try parse("www:1234").group == 1234)
        #expect(try parse("4000:4001") == Credentials(user: 4000, group: 4001, supplementaryGroups: [4001]))
    }

    @Test(
        "what is no user or group is said, in a line",
        arguments: [
            ("ghost", "there is no user 'ghost' in /etc/passwd"),
            ("www:ghosts", "there is no group 'ghosts' in /etc/group"),
            ("", "there is no user '' in /etc/passwd"), ("-1", "there is no user '-1' in /etc/passwd"),
            ("4294967295", "there is no user '4294967295' in /etc/passwd"),
            ("www:", "there is no group '' in /etc/group"),
            ("4000", "user 4000 is not in /etc/passwd: say the group too, as in 4000:4000"),
            ("a\nb", "there is no user 'a\\x0ab' in /etc/passwd"),
        ])
    func wrong(text: String, reason: String) {
        #expect(throws: ForkingError.invalid(reason)) { try parse(text) }
    }
}
