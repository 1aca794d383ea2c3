// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc

/// This program, as it was started.
struct Executable {
    let path: String
    let arguments: CStrings

    /// The path by which it was called, with whatever links are in it: where those lead by the time of SIGUSR2, another
    /// program may stand.
    static var own: Executable {
        var count: Int32 = 0
        let name = forkcore_arguments(&count)[0].map { String(cString: $0) } ?? ""
        let file = resolved("/proc/self/exe")
        let found = places(of: name, path: getenv("PATH").map { String(cString: $0) } ?? "", in: workingDirectory)
            .first { resolved($0) == file }
        return Executable(path: found ?? installed, arguments: .ofThisProcess)
    }

    /// Where a shell looks for what is called so.
    static func places(
        of name: String, path: String, in workingDirectory: @autoclosure () -> String?
    ) -> [String] {
        if name.hasPrefix("/") { return [name] }
        if name.contains("/") {
            guard let directory = workingDirectory() else { return [] }
            return [directory + "/" + name]
        }
        return path.split(separator: ":").filter { $0.hasPrefix("/") }.map { "\($0)/\(name)" }
    }

    /// As the shell says it, which knows by which links it came there: those can lead to another release by the time of SIGUSR2.
    private static var workingDirectory: String? {
        var (said, here) = (stat(), stat())
        if let path = getenv("PWD"), UInt8(bitPattern: path.pointee) == UInt8(ascii: "/"), stat(path, &said) == 0,
            stat(".", &here) == 0,
            said.st_dev == here.st_dev, said.st_ino == here.st_ino
        {
            return String(cString: path)
        }
        guard let directory = getcwd(nil, 0) else { return nil }
        defer { free(directory) }
        return String(cString: directory)
    }

    private static func resolved(_ path: String) -> String? {
        guard let real = realpath(path, nil) else { return nil }
        defer { free(real) }
        return String(cString: real)
    }

    /// Where the file is, or was: another may stand there already, if this one was started only just before.
    private static var installed: String {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("/proc/self/exe", &buffer, buffer.count - 1)
        return withoutMark(
            String(decoding: buffer.prefix(max(0, count)).map(UInt8.init(bitPattern:)), as: UTF8.self))
    }

    /// A path as the kernel says it, which marks that of a file that is there no more.
    static func withoutMark(_ path: String) -> String {
        let mark = " (deleted)"
        return path.hasSuffix(mark) ? String(path.dropLast(mark.count)) : path
    }
}
