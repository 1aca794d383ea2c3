// SPDX-License-Identifier: Apache-2.0

import SystemPackage
import Testing

@testable import Forking

@Suite("Where a program is")
struct ExecutableTests {
    @Test("one without a slash is looked for in PATH, where a directory without a name is the one that we are in")
    func searchPath() {
        func places(_ path: UnsafePointer<CChar>?) -> [String] { visited { SearchPath.find("x", in: path, where: $0) } }
        #expect(places("/bin:relative::/usr/bin:") == ["/bin/x", "relative/x", "./x", "/usr/bin/x", "./x"])
        #expect(places("") == ["./x"])
        #expect(places(nil) == ["/usr/bin/x", "/bin/x"])
    }

    /// What is looked at where nothing is what is wanted.
    private func visited(_ find: ((UnsafePointer<CChar>) -> Bool) -> [CChar]?) -> [String] {
        var places: [String] = []
        let found = find { place in
            places.append(String(cString: place))
            return false
        }
        #expect(found == nil)
        return places
    }

    @Test("neither a directory nor a name need be UTF-8, and the first place that is wanted is taken")
    func bytes() {
        let path: [CChar] = [0x2f, -1, 0x3a, 0x2f, -3, 0x3a, 0x2f, 0], name: [CChar] = [-2, 0]
        let found = SearchPath.find(name, in: path) { $0[1] == -3 }
        #expect(found == [0x2f, -3, 0x2f, -2, 0])
    }

    @Test("this one is looked for where a shell had found it, but not where we may be no more")
    func places() {
        func places(_ name: String, path: String = "/bin:relative::/usr/bin", in directory: String? = "/home")
            -> [String]
        {
            visited { Executable.find(name, path: path, in: directory.map { Array($0.utf8CString) }, where: $0) }
        }
        #expect(places("/opt/server") == ["/opt/server"])
        #expect(places("./server") == ["/home/./server"])
        #expect(places("build/server") == ["/home/build/server"])
        #expect(places("build/server", in: nil) == [])
        #expect(places("server") == ["/bin/server", "/usr/bin/server"])
        #expect(places("server", path: "") == [])
    }

    @Test("the kernel's mark of a file that has gone is no part of its path")
    func mark() {
        func withoutMark(_ path: String) -> String { FilePath(platformString: Executable.withoutMark(path)).string }
        #expect(withoutMark("/opt/server (deleted)") == "/opt/server")
        #expect(withoutMark("/opt/server") == "/opt/server")
        #expect(withoutMark("/opt/ (deleted)/server") == "/opt/ (deleted)/server")
        #expect(Executable.withoutMark([0x2f, -1] + " (deleted)".utf8CString) == [0x2f, -1, 0])
    }
}
