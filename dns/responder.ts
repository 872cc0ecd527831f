import { randomInt } from 'node:crypto';
import { AnswerCache, type CacheOptions, type Kept } from './cache.ts';
import type { FakeAddresses } from './fake.ts';
import {
  type Answer,
  answersTo,
  buildQuestion,
  deliver,
  encodeName,
  hasRecord,
  type Query,
  questionKey,
  questionName,
  RCODE,
  rcodeOf,
  readQuery,
  refuse,
  rename,
  synthesize,
  TYPE,
} from './message.ts';
import { type Ask, type Found, Policy, type PolicyOptions, type Road } from './policy.ts';
import { reversedAddress } from './reverse.ts';

export type ResponderOptions = PolicyOptions & {
  /** Gives the answer to a DNS message from where the cluster's names are known; rejects when it can't. Has a limit on time. */
  askCluster: (message: Buffer) => Promise<Buffer>;
  /** The same from the host's own resolvers. */
  askHost: (message: Buffer) => Promise<Buffer>;
  /** Addresses to give out in place of the cluster's. */
  fake?: FakeAddresses;
  cache?: CacheOptions;
  /** What the search for an answer may take. */
  answerMs?: number;
};

export type DnsStats = {
  queries: number;
  /** Answered from what was kept. */
  cached: number;
  /** Answered by the cluster. */
  cluster: number;
  /** Answered by the host's own resolvers. */
  host: number;
  /** Answered by SERVFAIL, for want of anything else. */
  failed: number;
};

const ANSWER_MS = 8_000;
/** Clients waiting at once, those for one answer included. */
const MAX_WAITING = 10_000;
const FAKE_TTL_S = 5;
const LOOPBACK_TTL_S = 3_600;
const TCP_BYTES = 65_535;

/** Messages in, messages out: what the server does between its sockets. */
export class Responder {
  readonly stats: DnsStats = { queries: 0, cached: 0, cluster: 0, host: 0, failed: 0 };
  readonly cache: AnswerCache;
  #options: ResponderOptions;
  #policy: Policy;
  #nowMs: () => number;
  #waiting = 0;

  constructor(options: ResponderOptions) {
    this.#options = options;
    this.#policy = new Policy(options);
    this.#nowMs = options.nowMs ?? Date.now;
    this.cache = new AnswerCache(options.cache);
  }

  /** Clients that wait for an answer. */
  get waiting(): number {
    return this.#waiting;
  }

  /**
   * Calls `reply` once: with the answer, at once when it is kept, or with undefined when none may be given (to what is no
   * question). Never throws. `road`: who answered; undefined: lpk itself.
   */
  respond(message: Buffer, transport: 'udp' | 'tcp', reply: (answer: Buffer | undefined, road?: Road) => void): void {
    const query = readQuery(message);
    if (!query) {
      reply(undefined);
      return;
    }
    this.stats.queries += 1;
    if (query.fault !== RCODE.noError) {
      reply(refuse(query, query.fault));
      return;
    }
    const limitBytes = transport === 'udp' ? query.udpBytes : TCP_BYTES;
    const key = questionKey(query);
    const nowMs = this.#nowMs();
    const kept = this.cache.get(key, nowMs);
    if (kept && (kept.road === 'host' || this.#options.clusterUp())) {
      this.stats.cached += 1;
      reply(deliver(kept, query, Math.floor((nowMs - kept.sinceMs) / 1000), limitBytes), kept.road);
      return;
    }
    const local = this.#local(query);
    if (local) {
      reply(deliver(local, query, 0, limitBytes));
      return;
    }
    if (this.#waiting >= MAX_WAITING) {
      this.stats.failed += 1;
      reply(refuse(query, RCODE.servFail));
      return;
    }
    this.#waiting += 1;
    const done = (answer: Buffer, road?: Road) => {
      this.#waiting -= 1;
      reply(answer, road);
    };
    this.cache
      .find(key, () => this.#find(query))
      .then(
        (found) => {
          this.stats[found.road] += 1;
          done(deliver(found, query, 0, limitBytes), found.road);
        },
        () => {
          this.stats.failed += 1;
          done(refuse(query, RCODE.servFail));
        },
      );
  }

  /** What needs nobody: loopback's names (RFC 6761 section 6.3), fake addresses' names. */
  #local(query: Query): Answer | undefined {
    const name = questionName(query);
    if (name === 'localhost' || name.endsWith('.localhost')) {
      if (query.type === TYPE.a) return one(query, Buffer.of(127, 0, 0, 1), LOOPBACK_TTL_S);
      if (query.type === TYPE.aaaa) return one(query, Buffer.concat([Buffer.alloc(15), Buffer.of(1)]), LOOPBACK_TTL_S);
      return synthesize(query, []);
    }
    const { fake } = this.#options;
    const address = fake && reversedAddress(name);
    if (!address || !fake.contains(address)) return undefined;
    const target = fake.nameOf(address);
    if (target === undefined) return synthesize(query, [], RCODE.nxDomain);
    return query.type === TYPE.ptr ? one(query, encodeName(target) as Buffer, FAKE_TTL_S) : synthesize(query, []);
  }

  async #find(query: Query): Promise<Kept> {
    const { answerMs = ANSWER_MS } = this.#options;
    const ask: Ask = (road, name, type = query.type) => this.#ask(query, road, name, type);
    const found = await within(answerMs, this.#policy.find(questionName(query), ask));
    const answer = this.#answer(query, found);
    if (!answer) throw Object.assign(new Error('the answer is malformed'), { code: 'EBADRESP' });
    return { ...answer, road: found.road, sinceMs: this.#nowMs() };
  }

  #answer(query: Query, { answer, name, clusterName, maxTtlS }: Found): Answer | undefined {
    const { fake } = this.#options;
    const asked = encodeName(name) as Buffer;
    const faked = fake !== undefined && clusterName;
    const renamed = rename(answer, query, { asked, bare: faked, ...(maxTtlS !== undefined && { maxTtlS }) });
    if (!renamed || !faked || rcodeOf(answer) !== RCODE.noError) return renamed;
    if (query.type === TYPE.aaaa) return synthesize(query, []);
    if (query.type !== TYPE.a || !hasRecord(renamed, TYPE.a)) return renamed;
    const octets = fake.addressFor(name).split('.').map(Number);
    return one(query, Buffer.from(octets), FAKE_TTL_S);
  }

  async #ask(query: Query, road: Road, text: string, type: number): Promise<Buffer> {
    const name = encodeName(text);
    // Too long with a suffix: there is no such name.
    if (!name) return synthesize(query, [], RCODE.nxDomain).message;
    const answer = await this.#send(
      buildQuestion(query, { id: randomInt(0x10000), name, type, edns: query.edns }),
      road,
    );
    const rcode = rcodeOf(answer);
    if (!query.edns || (rcode !== RCODE.formErr && rcode !== RCODE.notImp)) return answer;
    // A server from before EDNS (RFC 6891 section 6.2.2).
    return await this.#send(buildQuestion(query, { id: randomInt(0x10000), name, type, edns: false }), road);
  }

  async #send(question: Buffer, road: Road): Promise<Buffer> {
    const { askCluster, askHost } = this.#options;
    const answer = await (road === 'cluster' ? askCluster(question) : askHost(question));
    if (!answersTo(answer, question)) {
      throw Object.assign(new Error('answered another question'), { code: 'EBADRESP' });
    }
    return answer;
  }
}

function one(query: Query, data: Buffer, ttlS: number): Answer {
  return synthesize(query, [{ type: query.type, ttlS, data }]);
}

function within<T>(ms: number, work: Promise<T>): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(Object.assign(new Error('no answer in time'), { code: 'ETIMEOUT' })), ms);
  return Promise.race([work, promise]).finally(() => clearTimeout(timer));
}
