// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("What children leave behind")
struct ParentOnlyTests {
    private func numbers(_ list: borrowing DescriptorList) -> [Int32] {
        (0..<list.count).map { list[$0] }
    }

    @Test("descriptors are listed in ascending order, whatever comes and goes, and however many")
    func list() {
        var generator = FixedGenerator(state: 1)
        var list = DescriptorList()
        var model: Set<Int32> = []
        for step in 0..<20_000 {
            let number = Int32.random(in: 0..<5000, using: &generator)
            // First there are more and more of them, then fewer and fewer.
            if Bool.random(using: &generator) == (step < 10_000), !model.contains(number) {
                list.insert(number)
                model.insert(number)
            } else if step % 3 == 0 || step >= 10_000 {
                list.remove(number)  // be it there or not
                model.remove(number)
            }
            if step % 500 == 0 { #expect(numbers(list) == model.sorted()) }
        }
        for number in model { list.remove(number) }
        #expect(list.count == 0)
    }

    /// Other tests of this process have descriptors there, too; these are none.
    @Test("a child closes all of them but what it keeps")
    func kept() {
        let added: [Int32] = [1 << 24, 1 << 24 + 1, 1 << 24 + 2]
        for number in added.reversed() { ParentOnly.add(number) }
        defer { for number in added { ParentOnly.remove(number) } }
        #expect(ParentOnly.withDescriptors(but: []) { Array($0.suffix(3)) } == added)
        #expect(ParentOnly.withDescriptors(but: [added[1], 7]) { Array($0.suffix(2)) } == [added[0], added[2]])
        #expect(ParentOnly.withDescriptors(but: added) { !$0.contains(where: added.contains) })
    }
}
