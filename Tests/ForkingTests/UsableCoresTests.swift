// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@testable import Forking

@Suite("Usable cores")
struct UsableCoresTests {
    private static let v2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
    private static let v1 =
        "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:4 master:2 - cgroup cgroup rw,cpu,cpuacct\n"
    private static let tmpfs = "31 24 0:28 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n"

    /// How many of 64 cores are usable where /proc and /sys say this. A file's text, by its path below /sys/fs/cgroup.
    private func count(
        _ membership: String?, _ mounts: String?, _ files: [String: String] = [:], affinity: Int = 64
    ) throws -> Int {
        let root = try TemporaryDirectory()
        var all = files.reduce(into: [:]) { $0["sys/fs/cgroup/" + $1.key] = $1.value }
        all["proc/self/cgroup"] = membership
        all["proc/self/mountinfo"] = mounts
        for (path, text) in all { try write(text, to: root.path + "/" + path) }
        return UsableCores.count(root: root.path, affinity: affinity)
    }

    private func write(_ text: String, to path: String) throws {
        for slash in path.indices.dropFirst() where path[slash] == "/" { mkdir(String(path[..<slash]), 0o700) }
        guard let file = fopen(path, "we") else { throw Failure("cannot make \(path)") }
        fwrite(Array(text.utf8), 1, text.utf8.count, file)  // NUL bytes too
        fclose(file)
    }

    @Test("nothing known is no limit")
    func nothing() throws {
        #expect(try count(nil, nil) == 64)
        #expect(try count("0::/a\n", nil) == 64)
        #expect(try count(nil, Self.v2, ["cpu.max": "100000 100000\n"]) == 64)
        #expect(try count("0::/a\n", Self.v2) == 64)
        #expect(try count("0::/a\n", Self.v1 + Self.tmpfs, ["cpu.max": "100000 100000\n"]) == 64)
        #expect(try count("", "", affinity: 0) == 1)
        #expect(try count("0::/a\n", Self.v2, ["a/cpu.max": "9900000 100000\n"], affinity: 3) == 3)
    }

    @Test(
        "a limit of version 2 is rounded up",
        arguments: [
            ("100000 100000\n", 1), ("100001 100000\n", 2), ("150000 100000\n", 2), ("1000 100000\n", 1),
            ("400000 50000\n", 8), ("max 100000\n", 64), ("6400000 100000\n", 64), ("9900000 100000\n", 64),
        ])
    func version2(limit: String, expected: Int) throws {
        #expect(try count("0::/a/b\n", Self.v2, ["a/b/cpu.max": limit]) == expected)
    }

    @Test(
        "what makes no sense is no limit",
        arguments: [
            "", "\n", "max", "100000", "-1 100000", "0 100000", "100000 0", "x y", "100000 100000 1",
            "99999999999999999999 100000", "\u{0} 1", "1.5 1",
        ])
    func garbage(limit: String) throws {
        #expect(try count("0::/a\n", Self.v2, ["a/cpu.max": limit]) == 64)
        let quota = ["cpu,cpuacct/a/cpu.cfs_quota_us": limit, "cpu,cpuacct/a/cpu.cfs_period_us": "0"]
        #expect(try count("4:cpu,cpuacct:/a\n", Self.v1, quota) == 64)
        #expect(try count(limit + "\n:::\n0\n0::/a\n", limit + "\n - \n" + Self.v2, ["cpu.max": "200000 100000"]) == 2)
    }

    @Test("the tightest of all groups above counts, and no other's")
    func nested() throws {
        var files = ["a/b/c/cpu.max": "max 100000\n", "a/b/cpu.max": "300000 100000\n", "a/cpu.max": "800000 100000\n"]
        files["a/other/cpu.max"] = "100000 100000\n"
        files["a/b/c/below/cpu.max"] = "100000 100000\n"
        #expect(try count("0::/a/b/c\n", Self.v2, files) == 3)
        #expect(try count("0::/a\n", Self.v2, files) == 8)
        #expect(try count("0::/\n", Self.v2, files) == 64)
        files["cpu.max"] = "200000 100000\n"
        #expect(try count("0::/a/b/c\n", Self.v2, files) == 2)
        #expect(try count("0::/\n", Self.v2, files) == 2)
        #expect(try count("0::/gone/c\n", Self.v2, files) == 2)
    }

    @Test("version 1 has two files, and -1 for none")
    func version1() throws {
        func files(_ group: String, _ quota: Int) -> [String: String] {
            [
                "cpu,cpuacct\(group)/cpu.cfs_quota_us": "\(quota)\n",
                "cpu,cpuacct\(group)/cpu.cfs_period_us": "50000\n",
            ]
        }
        let membership = "9:name=systemd:/x\n5:cpuset:/x\n4:cpu,cpuacct:/a/b\n"
        #expect(try count(membership, Self.tmpfs + Self.v1, files("/a/b", -1)) == 64)
        #expect(try count(membership, Self.tmpfs + Self.v1, files("/a/b", 125_000)) == 3)
        #expect(try count(membership, Self.tmpfs + Self.v1, files("/a/b", -1).merging(files("/a", 50_000)) { $1 }) == 1)
        #expect(try count(membership, Self.tmpfs + Self.v1, files("/x", 50_000)) == 64)
        #expect(try count(membership, Self.tmpfs + Self.v1, ["cpu,cpuacct/a/b/cpu.cfs_quota_us": "50000\n"]) == 64)
        #expect(try count("5:cpuset:/a/b\n4:cpuacct:/a/b\n", Self.tmpfs + Self.v1, files("/a/b", 50_000)) == 64)
    }

    @Test("both versions at once are both heeded")
    func hybrid() throws {
        let mounts = Self.tmpfs + Self.v1 + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        let membership = "4:cpu,cpuacct:/old\n0::/new\n"
        var files = ["cpu,cpuacct/old/cpu.cfs_quota_us": "500000", "cpu,cpuacct/old/cpu.cfs_period_us": "100000"]
        #expect(try count(membership, mounts, files) == 5)
        files["unified/new/cpu.max"] = "300000 100000"
        #expect(try count(membership, mounts, files) == 3)
        files["unified/new/cpu.max"] = "900000 100000"
        #expect(try count(membership, mounts, files) == 5)
    }

    @Test("a container sees its group at the root of the mount")
    func containers() throws {
        func mount(_ root: String, _ point: String = "/sys/fs/cgroup") -> String {
            "30 24 0:26 \(root) \(point) ro - cgroup2 cgroup2 rw\n"
        }
        let files = [
            "cpu.max": "300000 100000\n", "docker/1/cpu.max": "100000 100000\n", "in/cpu.max": "200000 100000\n",
        ]
        #expect(try count("0::/docker/1\n", mount("/docker/1"), files) == 3)
        #expect(try count("0::/docker/1/in\n", mount("/docker/1"), files) == 2)
        #expect(try count("0::/\n", mount("/"), files) == 3)
        // Names that only begin alike, and groups beside or above what is mounted: the mount's root is what there is.
        #expect(try count("0::/docker/12\n", mount("/docker/1"), files) == 3)
        #expect(try count("0::/\n", mount("/docker/1"), files) == 3)
        #expect(try count("0::/\n", mount("/../.."), files) == 3)
        #expect(try count("0::/../in\n", mount("/"), files) == 3)
        #expect(try count("0::/../in\n", mount("/.."), files) == 2)
        // Of several mounts, the one that has the group.
        let both = mount("/other", "/sys/fs/cgroup/docker/1") + mount("/docker/1")
        #expect(try count("0::/docker/1/in\n", both, files) == 2)
    }

    @Test("names with blanks and colons are read as they are")
    func names() throws {
        let mounts = #"30 24 0:26 / /sys/fs/cgroup/a\040b\134c rw - cgroup2 cgroup2 rw"#
        #expect(try count("0::/x:y z\n", mounts, [#"a b\c/x:y z/cpu.max"#: "200000 100000"]) == 2)
        let odd = #"30 24 0:26 / /sys/fs/cgroup/a\0 rw - cgroup2 cgroup2 rw"#
        #expect(try count("0::/x\n", odd, [#"a\0/x/cpu.max"#: "200000 100000"]) == 2)
    }

    @Test("of this process there is one at least, and no more than there are in the machine")
    func here() {
        #expect((1...sysconf(Int32(_SC_NPROCESSORS_CONF))).contains(UsableCores.affinity))
        #expect((1...UsableCores.affinity).contains(UsableCores.count))
    }

    @Test("a process that is bound to one core has one", .needs("taskset", package: "util-linux"))
    func bound() throws {
        let list = contents(of: "/proc/self/status")?.split(separator: "\n").first {
            $0.hasPrefix("Cpus_allowed_list:")
        }
        let core = try #require(list?.split { !("0"..."9").contains($0) }.first)
        let running = try Running("taskset", ["-c", String(core), builtProgram("scenarios"), "bound-to-a-core"])
        #expect(try running.wait() == 0, "\(running.errors)")
    }
}
