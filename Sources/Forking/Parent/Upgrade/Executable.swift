// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc

/// This program, as it was started. Paths are C strings, with their NUL: see `SearchPath`.
///
/// Parent, when its server is made: it may read the file system. The go-between only executes it.
struct Executable {
    let path: [CChar]
    let arguments: CStrings

    /// The path by which it was called, with its symbolic links: by the time of SIGUSR2, they may lead to another
    /// program.
    static var own: Executable {
        var count: Int32 = 0
        let file = resolved("/proc/self/exe")
        let found = forkcore_arguments(&count)[0].flatMap { name in
            find(name, in: workingDirectory) { file != nil && resolved($0) == file }
        }
        return Executable(path: found ?? installed, arguments: .ofThisProcess)
    }

    /// The path at which a shell finds a program by this name. Relative directories in PATH are skipped, because the
    /// working directory may be another by the time of SIGUSR2.
    static func find(
        _ name: UnsafePointer<CChar>, path: UnsafePointer<CChar>? = UnsafePointer(getenv("PATH")),
        in workingDirectory: @autoclosure () -> [CChar]?, where isWanted: (UnsafePointer<CChar>) -> Bool
    ) -> [CChar]? {
        guard strchr(name, slash) != nil else {
            return SearchPath.find(name, in: path) { isAbsolute($0) && isWanted($0) }
        }
        let path = isAbsolute(name) ? copy(name) : workingDirectory().map { SearchPath.joined($0, strlen($0), name) }
        return path.flatMap { isWanted($0) ? $0 : nil }
    }

    private static let slash = Int32(UInt8(ascii: "/"))

    private static func isAbsolute(_ path: UnsafePointer<CChar>) -> Bool { Int32(path.pointee) == slash }

    private static func copy(_ path: UnsafePointer<CChar>) -> [CChar] {
        Array(UnsafeBufferPointer(start: path, count: strlen(path) + 1))
    }

    /// The working directory as the shell names it, with symbolic links: by the time of SIGUSR2, they may lead to
    /// another release.
    private static var workingDirectory: [CChar]? {
        var (said, here) = (stat(), stat())
        if let path = getenv("PWD"), isAbsolute(path), stat(path, &said) == 0, stat(".", &here) == 0,
            said.st_dev == here.st_dev, said.st_ino == here.st_ino
        {
            return copy(path)
        }
        return taken(getcwd(nil, 0))
    }

    private static func resolved(_ path: UnsafePointer<CChar>) -> [CChar]? { taken(realpath(path, nil)) }

    /// A copy of a string that libc has allocated. Frees the original.
    private static func taken(_ path: UnsafeMutablePointer<CChar>?) -> [CChar]? {
        defer { free(path) }
        return path.map { copy($0) }
    }

    /// The path of the executed file. Another file may already be there, if it was replaced right after this program
    /// was started.
    private static var installed: [CChar] {
        var path = [CChar](repeating: 0, count: Int(PATH_MAX))
        _ = readlink("/proc/self/exe", &path, path.count - 1)
        return withoutMark(path)
    }

    /// The kernel's name of a file, without the mark that it adds if the file was deleted.
    static func withoutMark(_ path: UnsafePointer<CChar>) -> [CChar] {
        let mark = " (deleted)"
        let rest = strlen(path) - mark.utf8.count
        guard rest > 0, strcmp(path + rest, mark) == 0 else { return copy(path) }
        return Array(UnsafeBufferPointer(start: path, count: rest)) + [0]
    }
}
