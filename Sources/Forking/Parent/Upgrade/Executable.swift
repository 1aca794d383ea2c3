// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// This program, as it was started.
struct Executable {
    let path: FilePath
    let arguments: CStrings

    /// The path by which it was called, with whatever links are in it: where those lead by the time of SIGUSR2, another
    /// program may stand.
    static var own: Executable {
        var count: Int32 = 0
        let name = forkcore_arguments(&count)[0].map { FilePath(platformString: $0) } ?? ""
        let file = resolved("/proc/self/exe")
        let found = places(of: name, in: workingDirectory).first { resolved($0) == file }
        return Executable(path: found ?? installed, arguments: .ofThisProcess)
    }

    /// Where a program that was called so can be. A directory of PATH that is none of its own is left out: we may be elsewhere by
    /// the time of SIGUSR2.
    static func places(
        of name: FilePath, path: UnsafePointer<CChar>? = UnsafePointer(getenv("PATH")),
        in workingDirectory: @autoclosure () -> FilePath?
    ) -> [FilePath] {
        if name.isAbsolute { return [name] }
        guard name.components.count == 1 else {
            return workingDirectory().map { [$0.appending(name.components)] } ?? []
        }
        return SearchPath.places(of: name, in: path).filter(\.isAbsolute)
    }

    /// As the shell says it, which knows by which links it came there: those can lead to another release by the time of SIGUSR2.
    private static var workingDirectory: FilePath? {
        var (said, here) = (stat(), stat())
        if let path = getenv("PWD"), UInt8(bitPattern: path.pointee) == UInt8(ascii: "/"), stat(path, &said) == 0,
            stat(".", &here) == 0,
            said.st_dev == here.st_dev, said.st_ino == here.st_ino
        {
            return FilePath(platformString: path)
        }
        return taken(getcwd(nil, 0))
    }

    private static func resolved(_ path: FilePath) -> FilePath? {
        path.withPlatformString { taken(realpath($0, nil)) }
    }

    /// What libc has allocated.
    private static func taken(_ path: UnsafeMutablePointer<CChar>?) -> FilePath? {
        guard let path else { return nil }
        defer { free(path) }
        return FilePath(platformString: path)
    }

    /// Where the file is, or was: another may stand there already, if this one was started only just before.
    private static var installed: FilePath {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
        _ = readlink("/proc/self/exe", &buffer, buffer.count - 1)
        return withoutMark(FilePath(platformString: buffer))
    }

    /// A path as the kernel says it, which marks that of a file that is there no more.
    static func withoutMark(_ path: FilePath) -> FilePath {
        let mark = " (deleted)"
        return path.withPlatformString { bytes in
            let rest = strlen(bytes) - mark.utf8.count
            guard rest > 0, strcmp(bytes + rest, mark) == 0 else { return path }
            return FilePath(platformString: Array(UnsafeBufferPointer(start: bytes, count: rest)) + [0])
        }
    }
}
