// SPDX-License-Identifier: Apache-2.0

public import Distributed
public import Forking
import ForkingAsync
import Synchronization
import SystemPackage

/// Distributed actors that live in processes of their own: children of a zygote. A trap, a hang or a leak in such an
/// actor fails the calls that it was serving, with an error that says what happened, and nothing else.
///
/// ```swift
/// distributed actor Parser {
///     typealias ActorSystem = IsolateSystem
///     distributed func parse(_ text: String) throws -> [String] { … }
/// }
///
/// let zygote = try Zygote.start { handlers in                    // first of all in main
///     handlers.actor(Parser.self) { system in Parser(actorSystem: system) }   // runs in the child
/// }
/// let system = IsolateSystem(zygote)
/// let parser = try await system.create(Parser.self)              // a child of its own
/// let tree = try await parser.parse(text)                        // throws if the child dies
/// ```
///
/// Arguments and results are `Codable`. Actors of the host can be passed as arguments, and called back. The child's one
/// thread runs all of its actors and Tasks.
///
/// The host has one such system, or several; each child has one, which is given to the closure that makes the actor.
public final class IsolateSystem: DistributedActorSystem, Sendable {
    public typealias ActorID = IsolateActorID
    public typealias InvocationEncoder = IsolateInvocationEncoder
    public typealias InvocationDecoder = IsolateInvocationDecoder
    public typealias ResultHandler = IsolateResultHandler
    public typealias SerializationRequirement = Codable

    let codec: any IsolateCodec
    let role: Role
    /// In a child: the type of the actor that it was created for.
    private let mainType: (any DistributedActor.Type)?
    let state = Mutex(State())

    /// Where this process stands.
    enum Role: Sendable {
        case host(Zygote)
        /// The child of an isolate, with its way to the host's actors.
        case isolate(UInt64, Callbacks)
    }

    struct State {
        /// Those of this process.
        var actors: [UInt64: WeakActor] = [:]
        /// In a child: whether the actor that it was created for has its number.
        var hasMainNumber = false
        /// In a child: that actor, which lives as long as the child.
        var main: (any DistributedActor)?
        /// In the host.
        var isolates: [UInt64: Zygote.Isolate] = [:]
        /// The isolates whose calls of actors elsewhere are asked for.
        var served: Set<UInt64> = []
    }

    struct WeakActor {
        weak var actor: (any DistributedActor)?
    }

    /// Makes a host's system.
    ///
    /// - Parameters:
    ///   - zygote: its children are the isolates. It was started with `Handlers.actor` for each type of actor.
    ///   - codec: the same as in `Handlers.actor`.
    public init(_ zygote: Zygote, codec: any IsolateCodec = JSONIsolateCodec()) {
        role = .host(zygote)
        self.codec = codec
        mainType = nil
    }

    /// Child, for an actor of this type.
    init(isolate: UInt64, for type: any DistributedActor.Type, _ callbacks: Callbacks, _ codec: any IsolateCodec) {
        role = .isolate(isolate, callbacks)
        self.codec = codec
        mainType = type
    }

    /// What asks for calls of the host's actors refers to the isolates, too.
    deinit {
        for isolate in state.withLock({ $0.isolates.values.map { $0 } }) { isolate.release() }
    }

    /// The number of this process in the identifiers of actors.
    private var process: UInt64 { if case .isolate(let number, _) = role { number } else { 0 } }

    // MARK: Actors of this process

    public func assignID<Act: DistributedActor>(_ type: Act.Type) -> ActorID where Act.ID == ActorID {
        state.withLock { state in
            // The host knows this one by that number before it exists, and it must know itself by the same.
            guard let mainType, mainType == type, !state.hasMainNumber else {
                return IsolateActorID(process: process, number: ActorID.unknownNumber())
            }
            state.hasMainNumber = true
            return .main(of: process)
        }
    }

    public func actorReady<Act: DistributedActor>(_ actor: Act) where Act.ID == ActorID {
        state.withLock { $0.actors[actor.id.number] = WeakActor(actor: actor) }
    }

    public func resignID(_ id: ActorID) {
        state.withLock { state in
            state.actors[id.number] = nil
            if id == .main(of: process) { state.hasMainNumber = false }  // its initialiser threw: another may follow
        }
    }

    public func resolve<Act: DistributedActor>(id: ActorID, as type: Act.Type) throws -> Act? where Act.ID == ActorID {
        guard id.process == process else { return nil }
        guard let actor = actor(id.number) else {
            throw ForkingError.invalid("there is no \(id) any more")
        }
        guard let found = actor as? Act else {
            // What a protocol with @Resolvable is resolved by is always a reference.
            if type is any _DistributedActorStub.Type { return nil }
            throw ForkingError.invalid("\(id) is a \(Swift.type(of: actor)), not a \(type)")
        }
        return found
    }

    func actor(_ number: UInt64) -> (any DistributedActor)? {
        state.withLock { $0.actors[number]?.actor }
    }

    // MARK: Calls

    public func makeInvocationEncoder() -> InvocationEncoder { IsolateInvocationEncoder(codec: codec) }

    public func remoteCall<Act: DistributedActor, Err: Error, Result: Codable>(
        on actor: Act, target: RemoteCallTarget, invocation: inout InvocationEncoder, throwing: Err.Type,
        returning: Result.Type
    ) async throws -> Result where Act.ID == ActorID {
        let outcome = try await send(
            invocation.invocation, to: actor, target, expecting: Result.self == FileDescriptor.self ? 1 : 0)
        guard case .returned(let parcel) = outcome else { throw outcome.error(in: self) }
        return try parcel.open(Result.self, in: self)
    }

    public func remoteCallVoid<Act: DistributedActor, Err: Error>(
        on actor: Act, target: RemoteCallTarget, invocation: inout InvocationEncoder, throwing: Err.Type
    ) async throws where Act.ID == ActorID {
        let outcome = try await send(invocation.invocation, to: actor, target, expecting: 0)
        guard case .returnedVoid = outcome else { throw outcome.error(in: self) }
    }

    private func send<Act: DistributedActor>(
        _ invocation: Invocation, to actor: Act, _ target: RemoteCallTarget, expecting count: Int
    ) async throws -> Outcome where Act.ID == ActorID {
        var invocation = invocation
        // Swift's accessor of such a method gives it the actor's types for its own, so that it takes its arguments for
        // something else. 'G' ends the names of generic types, 'qd' is a parameter of a method within one.
        if invocation.generics.count > 1, target.identifier.contains("qd_"),
            _mangledTypeName(Act.self)?.hasSuffix("G") == true
        {
            throw ForkingError.invalid("\(target) is a generic method of a generic actor, which Swift cannot call")
        }
        invocation.actor = actor.id
        invocation.target = target.identifier
        return try await send(invocation, expecting: count)
    }

    /// Sends a call to the process in which its actor lives. From one isolate to another it goes through the host.
    func send(_ invocation: Invocation, expecting count: Int) async throws -> Outcome {
        if invocation.actor.process == process { return await perform(try invocation.duplicated()) }
        switch role {
        case .host:
            let isolate = try isolate(of: invocation.actor)
            let message = HostMessage.invocation(invocation).encoded()
            serveCallbacks(of: invocation.actor.process, isolate)
            // If the method throws, there is no descriptor.
            let reply = try await isolate.run(
                message.bytes, descriptors: message.descriptors, expecting: count, deadline: Self.deadline,
                traits: count == 0 ? [] : .orNoDescriptors)
            return try Outcome(reply)
        case .isolate(_, let callbacks):
            return try await callbacks.call(invocation, expecting: count)
        }
    }

    /// Runs a call of an actor of this process.
    func perform(_ invocation: Invocation) async -> Outcome {
        do {
            guard let actor = actor(invocation.actor.number) else {
                invocation.closeDescriptors()
                throw ForkingError.invalid("there is no \(invocation.actor) any more")
            }
            return try await perform(invocation, on: actor)
        } catch {
            return Outcome(threw: error, codec)
        }
    }

    private func perform<Act: DistributedActor>(_ invocation: Invocation, on actor: Act) async throws -> Outcome {
        var decoder = IsolateInvocationDecoder(invocation, in: self)
        defer { if !decoder.isAtEnd { invocation.closeDescriptors() } }
        let handler = IsolateResultHandler(codec)
        try await executeDistributedTarget(
            on: actor, target: RemoteCallTarget(invocation.target), invocationDecoder: &decoder, handler: handler)
        return handler.outcome
    }

    // MARK: Deadlines

    @TaskLocal static var deadline: Duration?

    /// Bounds each call of an actor in an isolate that `body` makes: a call that takes longer throws
    /// `ForkingError.Code.deadlineExceeded`, and its Task in the child is cancelled. If that does not end it within a
    /// second, the child is killed. Host.
    public static func withDeadline<Result>(
        _ deadline: Duration, isolation: isolated (any Actor)? = #isolation, _ body: () async throws -> Result
    ) async rethrows -> Result {
        try await $deadline.withValue(deadline, operation: body, isolation: isolation)
    }
}
