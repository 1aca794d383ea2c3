// SPDX-License-Identifier: Apache-2.0
//
// Before the zygote is forked: registers types of actors. The closures run in children.

public import Distributed
public import Forking
import ForkingAsync

extension Zygote.Handlers {
    /// Registers a type of distributed actors, each of which lives in a process of its own: see `IsolateSystem`.
    ///
    /// - Parameters:
    ///   - type: the type of the actor.
    ///   - codec: how arguments and results become bytes; the same as the host's system has.
    ///   - make: makes the actor, in its process. It is given the process's system, and the argument of `create`. What
    ///     it throws, `create` throws.
    public mutating func actor<Act: DistributedActor, Argument: Codable & Sendable>(
        _ type: Act.Type, codec: any IsolateCodec = JSONIsolateCodec(),
        _ make: @escaping @Sendable (IsolateSystem, Argument) throws -> Act
    ) where Act.ActorSystem == IsolateSystem {
        isolate(Self.name(of: type), maxConcurrentCalls: 10_000) { request in
            var reader = ByteReader(request.bytes)
            let (number, parcel) = (try reader.number(), try reader.parcel())
            let callbacks = Callbacks()
            let system = IsolateSystem(isolate: number, for: type, callbacks, codec)
            let actor = try make(system, parcel.open(Argument.self, in: system))
            guard actor.id == .main(of: number) else {
                throw ForkingError.invalid("another \(type) was made before the one that was returned")
            }
            system.state.withLock { $0.main = actor }
            return { request in
                switch try HostMessage(request.bytes, descriptors: request.descriptors) {
                case .invocation(let invocation):
                    let (bytes, descriptors) = await system.perform(invocation).encoded()
                    return Zygote.Reply(bytes, descriptors: descriptors)
                case .nextCallback: return Zygote.Reply(await callbacks.next())
                case .result(let number, let outcome): callbacks.finish(number, .success(outcome))
                }
                return Zygote.Reply()
            }
        }
    }

    /// The same for an actor that is made without an argument.
    public mutating func actor<Act: DistributedActor>(
        _ type: Act.Type, codec: any IsolateCodec = JSONIsolateCodec(),
        _ make: @escaping @Sendable (IsolateSystem) throws -> Act
    ) where Act.ActorSystem == IsolateSystem {
        actor(type, codec: codec) { (system, _: NoArgument) in try make(system) }
    }

    /// The handler's name: the type's, or the end of a long one and a number made of all of it. The names of private
    /// types have an address in them, which is another one in a zygote that is executed anew.
    static func name(of type: any DistributedActor.Type) -> String {
        let parts = String(reflecting: type).split(separator: "(unknown context at $", omittingEmptySubsequences: false)
        let name = parts[0] + parts.dropFirst().map { "(private" + $0.drop { $0 != ")" } }.joined()
        guard name.utf8.count > 58 else { return "actor " + name }
        let hash = name.utf8.reduce(0xcbf2_9ce4_8422_2325 as UInt64) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
        let end = name.utf8.suffix(40).drop { $0 & 0xc0 == 0x80 }  // not from the middle of a character
        return "actor " + String(decoding: end, as: UTF8.self) + " " + String(hash, radix: 16)
    }
}
