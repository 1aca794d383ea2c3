// SPDX-License-Identifier: Apache-2.0

import SystemPackage
import Testing

@testable import Forking

@Suite("Where a program is")
struct ExecutableTests {
    @Test("one without a slash is looked for in PATH, where a directory without a name is the one that we are in")
    func searchPath() {
        func places(_ path: String) -> [FilePath] { SearchPath.places(of: "x", in: path) }
        #expect(places("/bin:relative::/usr/bin:") == ["/bin/x", "relative/x", "./x", "/usr/bin/x", "./x"])
        #expect(places("/bin/") == ["/bin/x"])
        #expect(places("") == ["./x"])
        #expect(SearchPath.places(of: "x", in: nil) == ["/usr/bin/x", "/bin/x"])
    }

    @Test("neither a directory nor a name need be UTF-8")
    func bytes() {
        let odd: [CChar] = [0x2f, -1, 0]
        let name = FilePath(platformString: [-2, 0])
        let place = odd.withUnsafeBufferPointer { SearchPath.places(of: name, in: $0.baseAddress) }
        #expect(place == [FilePath(platformString: [0x2f, -1, 0x2f, -2, 0])])
    }

    @Test("this one is looked for where a shell had found it, but not where we may be no more")
    func places() {
        func places(_ name: FilePath, path: String = "/bin:relative::/usr/bin", in directory: FilePath? = "/home")
            -> [FilePath]
        {
            Executable.places(of: name, path: path, in: directory)
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
        #expect(Executable.withoutMark("/opt/server (deleted)") == "/opt/server")
        #expect(Executable.withoutMark("/opt/server") == "/opt/server")
        #expect(Executable.withoutMark("/opt/ (deleted)/server") == "/opt/ (deleted)/server")
        let odd = FilePath(platformString: [0x2f, -1, 0])
        #expect(Executable.withoutMark(FilePath(platformString: [0x2f, -1] + " (deleted)".utf8CString)) == odd)
    }
}
