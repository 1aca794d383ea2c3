// SPDX-License-Identifier: Apache-2.0
//
// Any process: large data that processes share. A host does not trust what a child sends.

import CForkCore
import Glibc
public import SystemPackage

/// Bytes that one process has written, and that other processes read without copying them: a sealed file in memory,
/// mapped. memfd_create(2), mmap(2).
///
/// Nobody can change the bytes any more, nor their number: no process, not even the one that wrote them. So what is
/// checked once remains so, and any number of threads and processes may read at once.
///
/// ```swift
/// let image = try SharedMemory(byteCount: count) { bytes in try decode(file, into: &bytes) }
/// let call = try zygote.begin("blur", sharing: image, expecting: 1)
/// let blurred = try await call.reply().takeSharedMemory()
/// blurred.withBytes { bytes in save(bytes) }
/// ```
///
/// The memory is unmapped, and its descriptor closed, when the value goes away. The last process to do so waits while
/// the kernel frees the pages, which takes milliseconds for megabytes: do not let large memory go on the thread of an
/// event loop. Any process, any thread.
public struct SharedMemory: ~Copyable, @unchecked Sendable {  // nobody writes to what the pointer leads to
    // Numbers and a deinit here, not values with deinits of their own: a program that links this module in release
    // mode would look for those, which are not public.
    private let file: Int32
    /// Nil if there are no bytes: mmap(2) maps no 0 bytes.
    private let start: UnsafeMutableRawPointer?
    /// The number of bytes, which may be 0.
    public let byteCount: Int

    deinit {
        Self.unmap(start, byteCount)
        forkcore_close(file)
    }

    // MARK: Making it

    /// Makes memory of `byteCount` bytes, which are all 0 until `fill` writes them in place. The memory is allocated at
    /// once, and sealed when `fill` returns. mmap(2).
    ///
    /// - Throws: `ForkingError.Code.system` if there is not enough memory, or no descriptor; what `fill` throws.
    public init(byteCount: Int, initializingWith fill: (inout MutableRawSpan) throws -> Void) throws {
        precondition(byteCount >= 0, "the number of bytes cannot be negative")
        let file = try Self.emptyFile()
        var start: UnsafeMutableRawPointer?
        if byteCount > 0 { try check(forkcore_memory_fill(file.rawValue, byteCount, &start), "mmap") }
        do {
            defer { Self.unmap(start, byteCount) }  // a file that is mapped for writing cannot be sealed
            var bytes = UnsafeMutableRawBufferPointer(start: start, count: byteCount).mutableBytes
            try fill(&bytes)
        }
        try self.init(sealing: file, byteCount: byteCount)
    }

    /// Makes memory with these bytes, which are copied, once. write(2).
    ///
    /// - Throws: `ForkingError.Code.system` if there is not enough memory, or no descriptor.
    public init(copying bytes: RawSpan) throws(ForkingError) {
        var writer = try Writer()
        try writer.append(bytes)
        self = try writer.finish()
    }

    /// Makes memory whose size is not known at the beginning, by appending to it.
    ///
    /// ```swift
    /// var writer = try SharedMemory.Writer()
    /// while let line = readLine() { try writer.append(line.utf8Span.span.bytes) }
    /// let text = try writer.finish()
    /// ```
    public struct Writer: ~Copyable, Sendable {
        private let file: Int32
        /// The number of bytes that have been appended.
        public private(set) var byteCount = 0

        /// Makes an empty file in memory. memfd_create(2).
        ///
        /// - Throws: `ForkingError.Code.system` if there is no descriptor or no memory for it.
        public init() throws(ForkingError) { file = try emptyFile().release() }

        deinit { forkcore_close(file) }

        /// Appends bytes, which are copied. write(2).
        ///
        /// - Throws: `ForkingError.Code.system` if there is not enough memory. Then nothing has been appended.
        public mutating func append(_ bytes: RawSpan) throws(ForkingError) {
            let code = bytes.withUnsafeBytes { forkcore_write_all(file, $0.baseAddress, $0.count) }
            if code != 0 {  // some of them may have been written
                ftruncate(file, byteCount)
                lseek(file, byteCount, SEEK_SET)
            }
            try check(code, "write")
            byteCount += bytes.byteCount
        }

        /// Seals what was appended. F_ADD_SEALS in fcntl(2).
        ///
        /// - Throws: `ForkingError.Code.system` if there is no address space to map it.
        public consuming func finish() throws(ForkingError) -> SharedMemory {
            let (file, count) = (file, byteCount)
            discard self
            return try SharedMemory(sealing: OwnedDescriptor(file), byteCount: count)
        }
    }

    private static func emptyFile() throws(ForkingError) -> OwnedDescriptor {
        try OwnedDescriptor("memfd_create") { forkcore_memory_file("forking", $0) }
    }

    private init(sealing file: consuming OwnedDescriptor, byteCount: Int) throws(ForkingError) {
        try check(forkcore_memory_seal(file.rawValue), "fcntl F_ADD_SEALS")
        try self.init(sealed: file, byteCount: byteCount)
    }

    private init(sealed file: consuming OwnedDescriptor, byteCount: Int) throws(ForkingError) {
        var start: UnsafeMutableRawPointer?
        if byteCount > 0 { try check(forkcore_memory_map(file.rawValue, byteCount, &start), "mmap") }
        self.start = start
        self.byteCount = byteCount
        self.file = file.release()
    }

    // MARK: Receiving it

    /// Maps shared memory that another process has sent, which need not be trusted. It owns the descriptor from now on,
    /// which is closed even if this throws.
    ///
    /// The descriptor must be a file in memory that is sealed against shrinking, growing and writing, and that has no
    /// holes. So neither can the sender end this process by SIGBUS, nor make it pay for memory that it has not
    /// allocated itself. Nothing is read, and nothing copied: check `byteCount` if you go on to do either. F_GET_SEALS
    /// in fcntl(2).
    ///
    /// Not for the parent of a `ForkingServer` or a `PreforkServer`: a descriptor that is refused is closed by a thread of
    /// its own, because that may block.
    ///
    /// - Throws: `ForkingError.Code.invalid` if it is anything else; `.system` if there is no address space to map it.
    public init(receiving descriptor: FileDescriptor) throws(ForkingError) {
        let count: Int
        do throws(ForkingError) { count = try Self.sealedSize(descriptor.rawValue) } catch {
            // Somebody else's file, whose close may block.
            if fcntl(descriptor.rawValue, F_GETFD) >= 0 { discard([descriptor.rawValue]) }
            throw error
        }
        try self.init(sealed: OwnedDescriptor(descriptor.rawValue), byteCount: count)
    }

    /// Maps what a descriptor refers to, and leaves the descriptor to its owner.
    init(duplicating descriptor: FileDescriptor) throws(ForkingError) {
        let count = try Self.sealedSize(descriptor.rawValue)
        let copy = fcntl(descriptor.rawValue, F_DUPFD_CLOEXEC, 0)
        try check(failure(of: copy), "fcntl")
        try self.init(sealed: OwnedDescriptor(copy), byteCount: count)
    }

    private static func sealedSize(_ descriptor: Int32) throws(ForkingError) -> Int {
        var memory = forkcore_memory()
        let code = forkcore_memory_look(descriptor, &memory)
        guard code != EINVAL else {
            throw .invalid("the descriptor is not shared memory: it must be a file in memory, of memfd_create(2)")
        }
        try check(code, "fcntl F_GET_SEALS")
        let missing = [
            memory.can_shrink ? "F_SEAL_SHRINK" : nil, memory.can_grow ? "F_SEAL_GROW" : nil,
            memory.can_change ? "F_SEAL_WRITE" : nil,
        ].compactMap { $0 }
        guard missing.isEmpty else {
            throw .invalid("the shared memory can still be changed: it lacks \(missing.joined(separator: ", "))")
        }
        guard memory.filled == memory.size else {
            throw .invalid(
                "the shared memory has a hole at byte \(memory.filled) of \(memory.size): its sender must write all of it"
            )
        }
        return memory.size
    }

    // MARK: Using it

    /// Calls `body` with the bytes, which cannot leave it. Returns or throws what `body` does.
    public borrowing func withBytes<Result: ~Copyable, E: Error>(
        _ body: (RawSpan) throws(E) -> Result
    ) throws(E) -> Result {
        try body(UnsafeRawBufferPointer(start: start, count: byteCount).bytes)
    }

    /// The file, which belongs to this value: it is closed with it. To pass it to another process, by `descriptors` of
    /// `Zygote.begin` or as a program's input. Copies share their offset with this one, which is 0: pread(2) uses none.
    public var descriptor: FileDescriptor { FileDescriptor(rawValue: file) }

    /// Unmaps the bytes, and gives up the descriptor, which the caller must then close.
    consuming func release() -> FileDescriptor {
        let file = file
        Self.unmap(start, byteCount)
        discard self
        return FileDescriptor(rawValue: file)
    }

    private static func unmap(_ start: UnsafeMutableRawPointer?, _ count: Int) {
        if let start { munmap(start, count) }
    }
}

// MARK: - In a call

extension Zygote.Request {
    /// Maps the shared memory that the host passed: the first of `descriptors`, or the one at `index`. The descriptor
    /// stays the request's, and the memory has a duplicate of it as long as it lives. Child.
    ///
    /// - Throws: `ForkingError.Code.invalid` if there is no such descriptor, or if it is not what
    ///   `SharedMemory.init(receiving:)` takes; `.system` if it cannot be mapped.
    public func sharedMemory(at index: Int = 0) throws(ForkingError) -> SharedMemory {
        guard descriptors.indices.contains(index) else {
            throw .invalid(
                "there is no shared memory at index \(index): the request has \(descriptors.count) descriptors")
        }
        return try SharedMemory(duplicating: descriptors[index])
    }
}

extension Zygote.Reply {
    /// Makes a reply that passes shared memory to the host. The call must be `expecting` 1 descriptor. Child.
    public init(_ bytes: [UInt8] = [], sharing memory: consuming SharedMemory) {
        self.init(bytes, descriptors: [memory.release()])
    }

    /// Takes the reply's only descriptor, which must be shared memory, and maps it. Host. Of several take each by
    /// `takeDescriptors()` and `SharedMemory.init(receiving:)`.
    ///
    /// `maxReplyBytes` does not count shared memory, which the child has allocated: see `SharedMemory.byteCount`.
    ///
    /// - Throws: `ForkingError.Code.invalid` if the reply has another number of descriptors, or they were taken before,
    ///   or if it is not what `SharedMemory.init(receiving:)` takes; `.system` if it cannot be mapped.
    public func takeSharedMemory() throws(ForkingError) -> SharedMemory {
        let descriptors = takeDescriptors()
        guard descriptors.count == 1 else {
            discard(descriptors.map(\.rawValue))
            throw .invalid("the reply has \(descriptors.count) descriptors, and must have 1 to be shared memory")
        }
        return try SharedMemory(receiving: descriptors[0])
    }
}
