import type { Lpk } from '../e2e/lpk.ts';
import { eventually } from '../e2e/shop.ts';
import type { Lane, Session } from './lane.ts';
import { Streams } from './streams.ts';

/** Ctrl-C, and everything is put back. */
export async function leaves(lpk: Lpk): Promise<void> {
  lpk.signal('SIGINT');
  const { code } = await lpk.exit();
  if (code !== 0) throw new Error(`expected exit 0; ${lpk}`);
}

/** lpk ends by itself, and says that the session is over, and why. */
export async function ends(lpk: Lpk, why: RegExp): Promise<void> {
  const { code } = await lpk.exit();
  const ended = lpk.events.find(({ event, code: of }) => event === 'error' && of === 'session-ended');
  if (code !== 1 || !ended || !why.test(lpk.stderr)) throw new Error(`expected session-ended, ${why}; ${lpk}`);
}

/**
 * What was open is lost, and lpk says so, after its first `from` events; then the link is there again, and new connections work both
 * ways.
 */
export async function worksAnew(lane: Lane, { lpk, proxyPort }: Session, from: number): Promise<void> {
  await lpk.until('a word of what is lost', () => lpk.events.slice(from).find(({ event }) => event === 'cut'));
  await lpk.until('the link again', () =>
    lpk.events.slice(from).find(({ event }) => event === 'attached' || event === 'link-up'),
  );
  // The peer may have been lost as well.
  await eventually('the peer reaches it', () =>
    lane.scene.reach().then(
      () => true,
      () => false,
    ),
  );
  const streams = await Streams.begin(lane.scene, proxyPort);
  await streams.whole();
}
