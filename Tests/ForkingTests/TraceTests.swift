// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing

@Suite("What counts as a child's end, and nobody waiting for one")
struct TraceTests {
    @Test("a child that has its parent trace it and stops has not ended, and is killed")
    func tracedByItsParent() throws { try pass("traced-by-its-parent") }

    @Test("a child with a thread that its parent traces is reaped")
    func threadTracedByItsParent() throws { try pass("thread-traced-by-its-parent") }

    @Test("children that others trace as they end: nothing spins, it is told once, and they are reaped once let go")
    func heldByATracer() throws { try pass("held-by-a-tracer") }

    @Test("a child's limit ends a tracer of its own that holds it")
    func heldByATracerOfItsGroup() throws { try pass("held-by-a-tracer-of-its-group") }

    @Test("processes that a child makes its parent's are reaped on request, and nobody else's children")
    func strangers() throws { try pass("strangers") }

    @Test("programs that are slow to be executed are a shortage, and nobody waits for them")
    func slowExecve() throws { try pass("slow-execve") }

    @Test("slow programs hold further clients, who are served by and by, and the server stops meanwhile")
    func slowPrograms() throws { try pass("slow-programs-many-descriptors") }

    @Test("a child that may not be signalled is told of at once", .needsRoot)
    func notPermitted() throws { try pass("not-permitted") }
}
