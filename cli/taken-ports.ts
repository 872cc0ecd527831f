import type { Ask } from './ask.ts';
import { isSame, type Listener, listenersLeft, listenersOf, stopListeners } from './free-port.ts';
import type { Output } from './output.ts';
import { printable } from './printable.ts';

/**
 * Says who already listens on the ports that are wanted, and stops them when told to: by `free` at once, else by the person, if
 * there is one to `ask`. A process of another user is never stopped, nor one that lpk was started by, nor one that came while the person
 * thought.
 */
export async function freePorts(
  ports: Iterable<number>,
  given: {
    free: boolean;
    ask: (() => Promise<Pick<Ask, 'confirm'>>) | undefined;
    output: Pick<Output, 'say' | 'warn'>;
  },
): Promise<void> {
  const { free, ask, output } = given;
  for (const port of new Set(ports)) {
    const listeners = await listenersOf(port);
    if (listeners.length === 0) continue;
    const who = named(listeners);
    const taken = `port ${port} is taken by ${who}`;
    const fields = fieldsOf(port, listeners);
    if (!listeners.every(({ isOwn }) => isOwn)) {
      output.warn(`${taken}, which is left alone: it is not yours, or what lpk was started by`, 'port-taken', fields);
      continue;
    }
    if (!free) {
      output.warn(ask ? taken : `${taken}; --free-ports stops it`, 'port-taken', fields);
      if (!ask || !(await (await ask()).confirm(`Stop ${who}?`, false))) continue;
    }
    const still = (await listenersOf(port)).filter((each) => listeners.some((known) => isSame(each, known)));
    await stopListeners(still);
    const left = still.length > 0 ? await listenersLeft(port) : await listenersOf(port);
    if (left.length > 0)
      output.warn(`port ${port} is still taken by ${named(left)}`, 'port-taken', fieldsOf(port, left));
    else if (still.length === 0) output.say(`port ${port} is free by now`, 'port-freed', fieldsOf(port, still));
    else output.say(`stopped ${named(still)}: port ${port} is free`, 'port-freed', fieldsOf(port, still));
  }
}

function fieldsOf(port: number, listeners: Listener[]): { port: number; pids: number[] } {
  return { port, pids: listeners.flatMap(({ pid }) => pid ?? []) };
}

/** For a person: names and pids. */
export function named(listeners: Listener[]): string {
  return listeners
    .map(({ pid, name }) => (pid === undefined ? 'a process' : `${printable(name || 'a process')} (pid ${pid})`))
    .join(' and ');
}
