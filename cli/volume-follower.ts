import { utimesSync, writeFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { LpkError } from '../agent/wire/errors.ts';
import type { Session } from '../agent/wire/session.ts';
import type { Stream } from '../agent/wire/stream.ts';
import type { Output } from './output.ts';
import { printable } from './printable.ts';
import type { Conflict, VolumeCopy, VolumeReport } from './volume-copy.ts';
import { shown } from './volume-words.ts';
import { type Changes, VolumeWrites } from './volume-writes.ts';

/** An agent that answers, or waits for its link, and whose it is. */
export type Agent = { pod: string; session: Session };

const RETRY_MS = 500;
/** After what is wrong here or with the volume, twice as long each time up to this; what is calm for so long has another start. */
const MAX_RETRY_MS = 30_000;
const CALM_MS = 60_000;
/** Between two looks at a copy that may be written to; with many files so long that looking takes an eleventh of the time at most. */
const LOOK_MS = 500;
const MANY = 1_000;
const REST = 10;
/** What is skipped is told again at most this often. */
const TELL_AGAIN_MS = 60_000;
const MAX_TOLD = 5;
/** Conflicts and refusals beyond these are told at the end only. */
const MAX_LINES = 20;
/** Of clocks: the kernel's for files is behind by a tick. */
const TICK_MS = 20;

/** Keeps one copy fresh, by one agent after the other, and writes back what is changed in it. */
export class VolumeFollower {
  readonly path: string;
  readonly copy: VolumeCopy;
  /** Undefined: the copy is read-only. */
  readonly writes: VolumeWrites | undefined;
  /** Bytes of the archive that came, and files that the agent has seen in its first look. */
  readonly heard = { bytes: 0, seen: 0, atMs: performance.now() };
  #request: Buffer;
  #agent: () => Agent | undefined;
  #output: Output;
  #stamp: string | undefined;
  #first = Promise.withResolvers<VolumeReport | undefined>();
  #over = new AbortController();
  #running: Promise<unknown>;
  #stream: Stream | undefined;
  /** Whose volume the copy is of: its first round has come. */
  #of: Agent | undefined;
  #isStale = false;
  #told = new Map<string, { text: string; atMs: number }>();
  #lines = 0;

  /**
   * `path`: in the pod. `request`: of the `files` stream. `stamp`: of a copy that may be written to, a file whose mtime is when the pod last
   * had all of it.
   */
  constructor(given: {
    path: string;
    copy: (onConflict: ((conflict: Conflict) => void) | undefined) => VolumeCopy;
    request: object;
    agent: () => Agent | undefined;
    output: Output;
    stamp: string | undefined;
  }) {
    const { stamp } = given;
    this.path = given.path;
    this.copy = given.copy(stamp === undefined ? undefined : (conflict) => this.#tellConflict(conflict));
    this.#request = Buffer.from(JSON.stringify({ ...given.request, marks: stamp !== undefined }));
    this.#agent = given.agent;
    this.#output = given.output;
    this.#stamp = stamp;
    if (stamp !== undefined) {
      writeFileSync(stamp, this.path);
      this.writes = new VolumeWrites(this.copy, this.path, (at, why) => this.#tellRefused(at, why));
    }
    this.#running = Promise.all([this.#run(), this.#writeBack()]);
  }

  /** Undefined: it can't be had, which has been told. */
  get first(): Promise<VolumeReport | undefined> {
    return this.#first.promise;
  }

  /** The pod whose volume it is. */
  get pod(): string | undefined {
    return this.#of?.pod;
  }

  /** That it is written to; undefined when its pod went. */
  get session(): Session | undefined {
    return this.#of?.session.ended ? undefined : this.#of?.session;
  }

  /** Goes on without it when nothing has come for `silenceMs` although there is a link. */
  giveUpAfter(silenceMs: number): void {
    const nowMs = performance.now();
    if (!this.#agent()?.session.isUp) {
      this.heard.atMs = nowMs;
      return;
    }
    if (this.#of || nowMs - this.heard.atMs < silenceMs || this.#over.signal.aborted) return;
    this.#tellLost(`the pod has sent nothing for ${Math.round(silenceMs / 1_000)} s`);
    this.#over.abort();
    this.#stream?.destroy();
  }

  /** Takes nothing more. What the pod does not have is then a matter of {@link writes}. */
  async close(): Promise<void> {
    this.#over.abort();
    this.#stream?.destroy();
    await this.#running;
  }

  async #run(): Promise<void> {
    let failures = 0;
    let failedAtMs = Number.NEGATIVE_INFINITY;
    while (!this.#over.signal.aborted) {
      const agent = this.#agent();
      let restMs = RETRY_MS;
      try {
        if (agent) await this.#copyBy(agent);
      } catch (error) {
        // A pod that went has others after it.
        if (!this.#over.signal.aborted && !agent?.session.ended) {
          const why = error instanceof Error ? error.message : String(error);
          if (!this.#of || isFinal(error)) {
            this.#tellLost(why);
            break;
          }
          // A full disk, a server that is away: a token must not expire for it.
          failures = performance.now() - failedAtMs < CALM_MS ? failures + 1 : 1;
          if (failures === 1) this.#tellStale(why);
          restMs = Math.min(RETRY_MS * 2 ** failures, MAX_RETRY_MS);
          failedAtMs = performance.now() + restMs;
        }
      }
      await pause(restMs, undefined, { signal: this.#over.signal }).catch(() => {});
    }
    this.#first.resolve(undefined);
  }

  async #copyBy(agent: Agent): Promise<void> {
    const stream = agent.session.openFiles(this.#request);
    this.#stream = stream;
    await this.copy.receive(
      this.#hearing(stream),
      (report) => {
        this.#follows(agent);
        this.#tellFresh();
        this.#tellSkipped('not copied from', report.skipped, report.skippedCount);
        this.#first.resolve(report);
      },
      (seen) => {
        this.heard.seen = seen;
      },
    );
  }

  async *#hearing(stream: Stream): AsyncGenerator<Buffer> {
    for await (const piece of stream) {
      this.heard.bytes += piece.length;
      this.heard.atMs = performance.now();
      yield piece;
    }
  }

  /** An emptyDir is one pod's: who writes is to know whose. */
  #follows(agent: Agent): void {
    if (this.#of?.session === agent.session) return;
    const before = this.#of;
    this.#of = agent;
    if (!this.writes || !before || before.pod === agent.pod) return;
    this.#output.say(
      `${shown(this.path)} is now written back to pod ${agent.pod}, as ${before.pod} is gone`,
      'volume-pod',
      {
        path: this.path,
        pod: agent.pod,
      },
    );
  }

  async #writeBack(): Promise<void> {
    const { writes } = this;
    const { signal } = this.#over;
    while (writes && !signal.aborted) {
      let restMs = LOOK_MS;
      try {
        if (this.session) {
          const startedMs = Date.now();
          const changes = await writes.look();
          if (changes.entries >= MANY) restMs = Math.max(LOOK_MS, REST * changes.tookMs);
          this.#setStamp(changes, startedMs);
          this.#tellSkipped('not written back from', changes.skipped.named, changes.skipped.count);
          if (this.session) await writes.write(this.session, changes, { signal });
        }
      } catch (error) {
        const isPassing = signal.aborted || !this.session || (error instanceof LpkError && error.code === 'cancelled');
        if (!isPassing) {
          const why = printable(error instanceof Error ? error.message : String(error));
          const text = `${shown(this.path)} is not written back: ${why}; what changes in it is kept at the end`;
          this.#output.warn(text, 'volume-not-written', { path: this.path });
          return;
        }
      }
      await pause(restMs, undefined, { signal }).catch(() => {});
    }
  }

  /** A guard that finds something newer than the stamp keeps the copy. */
  #setStamp({ puts, removals }: Changes, lookedAtMs: number): void {
    const isClean = puts.length + removals.length + this.copy.aside.length === 0;
    const seconds = isClean ? (lookedAtMs - TICK_MS) / 1_000 : 0;
    utimesSync(this.#stamp as string, seconds, seconds);
  }

  #tellConflict({ path: at, keptAs, why }: Conflict): void {
    const place = `${this.path}/${at}`;
    const kept = keptAs === undefined ? '; it is back' : `; your version is beside it as ${shown(baseName(keptAs))}`;
    this.#line(`${shown(place)}: ${why}${kept}`, 'volume-conflict', { path: place, keptAs, why });
  }

  #tellRefused(at: string, why: string): void {
    const place = `${this.path}/${at}`;
    this.#line(`not written back: ${shown(place)} (${printable(why)})`, 'volume-refused', { path: place, why });
  }

  #line(text: string, event: string, fields: Record<string, unknown>): void {
    if (++this.#lines > MAX_LINES) return;
    const last = this.#lines === MAX_LINES ? '; more like this are told at the end only' : '';
    this.#output.warn(text + last, event, fields);
  }

  #tellLost(why: string): void {
    this.#output.warn(`volume ${shown(this.path)} is not copied any more: ${printable(why)}`, 'volume-lost', {
      path: this.path,
    });
  }

  #tellStale(why: string): void {
    this.#isStale = true;
    const text = `volume ${shown(this.path)} is not kept fresh for now: ${printable(why)}; lpk goes on trying`;
    this.#output.warn(text, 'volume-stale', { path: this.path });
  }

  #tellFresh(): void {
    if (this.#isStale)
      this.#output.say(`volume ${shown(this.path)} is fresh again`, 'volume-fresh', { path: this.path });
    this.#isStale = false;
  }

  #tellSkipped(what: string, skipped: ReadonlyMap<string, string>, skippedCount: number): void {
    const listed = [...skipped].slice(0, MAX_TOLD).map(([at, why]) => `${shown(at)} (${printable(why)})`);
    const more = skippedCount - listed.length;
    const text = `${listed.join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
    const before = this.#told.get(what);
    const nowMs = performance.now();
    if (text === '' || text === before?.text || (before && nowMs < before.atMs + TELL_AGAIN_MS)) return;
    this.#told.set(what, { text, atMs: nowMs });
    const fields = { path: this.path, skipped: Object.fromEntries(skipped), skippedCount };
    this.#output.warn(`${what} ${shown(this.path)}: ${text}`, 'volume-skipped', fields);
  }
}

/** The agent breaks a rule, or a limit that it was told: it does so again. */
function isFinal(error: unknown): boolean {
  return error instanceof LpkError && (error.code === 'protocol' || error.code === 'limit-exceeded');
}

function baseName(at: string): string {
  return at.slice(at.lastIndexOf('/') + 1);
}
