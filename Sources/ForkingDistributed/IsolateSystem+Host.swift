// SPDX-License-Identifier: Apache-2.0
//
// Host: creates actors in processes of their own, and ends them; serves their calls of the host's actors.

public import Distributed
public import Forking
import ForkingAsync

extension IsolateSystem {
    /// How an actor's process is limited, and what follows its end.
    public struct Options: Sendable {
        /// Whether another process follows one that has ended. Its actor is made anew, without the state of the last
        /// one, and is called by the same reference.
        public var restart = Zygote.Isolate.Restart.never
        /// The process's resource limits; nil means those of `Zygote.Configuration.child`.
        public var limits: ResourceLimits?
        /// Runs in the host when the process has ended, and must not block. If the report's `pause` is not nil, another
        /// follows.
        public var onEnd: @Sendable (Zygote.IsolateReport) -> Void = { _ in }

        /// The defaults, as documented at each property.
        public init() {}
    }

    /// Creates an actor in a process of its own. Host.
    ///
    /// The process lives until `terminate`, until it ends by itself and is not restarted, or until this system or its
    /// zygote ends.
    ///
    /// - Parameters:
    ///   - type: its type, which was registered by `Handlers.actor`.
    ///   - argument: is given to the closure that makes the actor, each time that its process is started.
    ///   - options: the process's limits, and what follows its end.
    /// - Throws: `ForkingError`, also for what that closure threw; `EncodingError`.
    public func create<Act: DistributedActor, Argument: Codable & Sendable>(
        _ type: Act.Type, _ argument: Argument, options: Options = Options()
    ) async throws -> Act where Act.ActorSystem == IsolateSystem {
        guard case .host(let zygote) = role else {
            throw ForkingError.invalid("only the host's system creates actors in processes of their own")
        }
        let number = ActorID.unknownNumber()
        var configuration = Zygote.Isolate.Configuration()
        configuration.restart = options.restart
        configuration.limits = options.limits
        configuration.onChildEnd = options.onEnd
        var writer = ByteWriter()
        writer.add(number)
        writer.add(try Parcel(argument, codec))
        let isolate = try await zygote.isolate(
            Zygote.Handlers.name(of: type), writer.bytes, configuration: configuration)
        state.withLock { $0.isolates[number] = isolate }
        serveCallbacks(of: number, isolate)
        return try Act.resolve(id: .main(of: number), using: self)
    }

    /// The same for an actor that is made without an argument.
    public func create<Act: DistributedActor>(
        _ type: Act.Type, options: Options = Options()
    ) async throws -> Act where Act.ActorSystem == IsolateSystem {
        try await create(type, NoArgument(), options: options)
    }

    /// Ends an actor's process: calls under way are completed, but after `timeout` the process is killed. Host.
    ///
    /// - Returns: how the process has ended; nil if there was none any more.
    @discardableResult
    public func terminate<Act: DistributedActor>(
        _ actor: Act, timeout: Duration = .seconds(3)
    ) async throws -> ExitStatus? where Act.ID == ActorID {
        let isolate = try isolate(of: actor.id)
        let status = await isolate.close(timeout: timeout)
        state.withLock { state in
            state.isolates[actor.id.process] = nil
            state.served.remove(actor.id.process)
        }
        return status
    }

    /// Waits until an actor's process has ended for good. Host.
    ///
    /// - Returns: why; nil if it was terminated.
    public func end<Act: DistributedActor>(of actor: Act) async throws -> ForkingError? where Act.ID == ActorID {
        let isolate = try isolate(of: actor.id)
        return await withCheckedContinuation { continuation in
            isolate.whenEnded { continuation.resume(returning: $0) }
        }
    }

    func isolate(of actor: ActorID) throws(ForkingError) -> Zygote.Isolate {
        guard let isolate = state.withLock({ $0.isolates[actor.process] }) else {
            throw .invalid("there is no \(actor) any more, or not in this system")
        }
        return isolate
    }

    // MARK: Calls of the host's actors

    /// A child cannot begin a call by itself. So the host has a call under way that asks for the child's next one, and
    /// whose reply is that. It costs each other call two system calls, so there is none before the child may know whom
    /// to call.
    func serveCallbacks(of number: UInt64, _ isolate: Zygote.Isolate) {
        guard ActorID.mayBeKnownElsewhere, state.withLock({ $0.served.insert(number).inserted }) else { return }
        Task.detached { [weak self] in
            while true {
                do {
                    // Meanwhile the system may be released.
                    let reply = try await isolate.run(HostMessage.nextCallback.encoded().bytes, traits: .standing)
                    guard let system = self else { return }
                    let callback = try Callback(reply.bytes)
                    Task.detached { await system.serve(callback, for: isolate) }
                } catch {
                    if isolate.status.hasEnded || (error as? ForkingError)?.code == .shutDown { return }
                    // The child has ended. The next call waits for the next one.
                }
            }
        }
    }

    private func serve(_ callback: Callback, for isolate: Zygote.Isolate) async {
        let outcome: Outcome
        if callback.invocation.actor.process == 0 {
            outcome = await perform(callback.invocation)
        } else {
            do { outcome = try await send(callback.invocation, expecting: 0) } catch {
                outcome = Outcome(threw: error, codec)
            }
        }
        let message = HostMessage.result(callback.number, outcome).encoded()
        _ = try? await isolate.run(message.bytes, descriptors: message.descriptors, traits: .standing)
    }
}

/// The argument of actors that are made without one.
struct NoArgument: Codable, Sendable {}
