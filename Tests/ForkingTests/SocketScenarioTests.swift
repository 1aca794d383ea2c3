// SPDX-License-Identifier: Apache-2.0

import Testing

@Suite("Sockets and processes")
struct SocketScenarioTests {
    @Test("1,024 failing binds leave no descriptor")
    func failingBinds() throws { try pass("failing-binds") }

    @Test("a listener that goes away in a child leaves its parent's file")
    func listenerInChild() throws { try pass("listener-in-child") }

    @Test("a listener that goes away in a child closes nothing of the child's")
    func descriptorInChild() throws { try pass("descriptor-in-child") }

    @Test("sockets that a service manager handed over are taken, others are not")
    func handedOver() throws { try pass("handed-over") }
}
