// SPDX-License-Identifier: Apache-2.0

import CForkbench
import Glibc
import Testing

@Suite("HTTP answers are taken") struct AnswerTests {
    private func take(_ pieces: [String]) -> forkbench_answer {
        var answer = forkbench_answer()
        forkbench_answer_begin(&answer)
        for piece in pieces {
            #expect(!answer.is_complete, "before '\(piece)'")
            forkbench_answer_take(&answer, piece, piece.utf8.count)
        }
        return answer
    }

    @Test("in whatever pieces they come", arguments: wholeAnswers)
    func pieces(_ text: String) {
        // Not as characters: to Swift, CR LF is one.
        let bytes = text.unicodeScalars.map { String($0) }
        var ways = [bytes]
        for place in 1..<bytes.count { ways.append([bytes[..<place].joined(), bytes[place...].joined()]) }
        for pieces in ways {
            let answer = take(pieces)
            #expect(answer.is_complete && answer.failure == 0 && answer.status == 200, "\(pieces)")
            #expect(answer.received == bytes.count)
            #expect(answer.closes == text.contains("close"))
        }
    }

    @Test("no further than they go", arguments: wholeAnswers)
    func more(_ text: String) {
        #expect(take([text + "x"]).failure == EPROTO)
    }

    @Test("to be cut short by every end of stream but their own", arguments: wholeAnswers)
    func ends(_ text: String) {
        let bytes = text.unicodeScalars.map { String($0) }
        for place in 0..<bytes.count {
            var answer = take([bytes[..<place].joined()].filter { !$0.isEmpty })
            #expect(!forkbench_answer_end(&answer), "after \(place)")
        }
        var answer = take(["HTTP/1.1 200 OK\r\n\r\n"])
        #expect(forkbench_answer_end(&answer) && answer.closes)
    }
}
