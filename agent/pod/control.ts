import { LpkError } from '../wire/errors.ts';
import { LIMITS } from '../wire/protocol.ts';
import type { Stream } from '../wire/stream.ts';
import { refuse } from './dial.ts';

/** By operation name: takes the request's arguments, gives the answer; both are JSON. */
export type Operations = Record<string, (args: Record<string, unknown>) => unknown>;

/** Reads a whole request from a `control` or `dns` stream, answers it, and ends. A failure becomes a reset. */
export async function answer(stream: Stream, respond: (question: Buffer) => Promise<Buffer> | Buffer): Promise<void> {
  try {
    const pieces: Buffer[] = [];
    let bytes = 0;
    for await (const piece of stream.iterator({ destroyOnReturn: false })) {
      bytes += piece.length;
      if (bytes > LIMITS.answerBytes) throw new LpkError('limit-exceeded', 'the request is too long');
      pieces.push(piece);
    }
    const result = await respond(Buffer.concat(pieces));
    stream.accept();
    stream.end(result);
  } catch (error) {
    refuse(stream, error);
  }
}

export function answerControl(stream: Stream, operations: Operations): Promise<void> {
  return answer(stream, async (question) => {
    const operation = Object.hasOwn(operations, stream.host) ? operations[stream.host] : undefined;
    if (!operation) throw new LpkError('protocol', `this agent knows no request '${stream.host}'`);
    const args = question.length === 0 ? {} : (JSON.parse(question.toString('utf8')) as Record<string, unknown>);
    return Buffer.from(JSON.stringify((await operation(args)) ?? {}));
  });
}
