import { readFileSync } from 'node:fs';
import { release } from 'node:os';
import { findTarget, parseTarget } from '../agent/deploy/find.ts';
import type { Cluster, Json } from '../agent/deploy/kube.ts';
import { workloadName } from '../agent/deploy/workload.ts';
import { openCluster } from './cluster.ts';
import { writeBundle } from './diagnose-bundle.ts';
import type { DiagnoseOptions } from './diagnose-options.ts';
import { findings, findingText } from './doctor.ts';
import { keptLogs, strangeFolders } from './log-file.ts';
import { type Mask, maskAll } from './mask.ts';
import type { Output } from './output.ts';
import { printableLines } from './printable.ts';
import { runningProxies } from './proxy-control.ts';
import { proxyText } from './proxy-verbs.ts';
import { readableSpan } from './readable-time.ts';
import { readServices } from './services.ts';
import { askSession, type SessionStatus } from './session-control.ts';
import { sessionsHere } from './sessions-here.ts';
import { version } from './version.ts';

const SHOWN_LOGS = 3;
const SHOWN_LINES = 15;

/**
 * `lpk diagnose`: says what there is to be known about this computer, the cluster, sessions, names and logs, and writes it all to a
 * bundle. What can't be found out is said, and is no failure. LpkError `usage` when the bundle can't be written.
 */
export async function diagnose(options: DiagnoseOptions, output: Output): Promise<number> {
  const report = new Report(output);
  const { versions, platform, arch } = process;
  const own = { lpk: version(), node: versions.node, system: `${platform} ${release()} on ${arch}` };
  report.add(`lpk ${own.lpk}, Node ${own.node}, ${own.system}`, 'versions', own);
  let isThere = false;
  await report.try('all of this computer and the cluster', async () => {
    for await (const finding of findings(options, output)) {
      report.add(findingText(finding), 'finding', finding);
      isThere ||= finding.name === 'cluster' && finding.ok;
    }
  });
  await report.try('the sessions that run here', () => tellHere(report));
  if (isThere) await report.try('the cluster', () => tellCluster(options, report, output));
  else report.unknown('the target, Services and DNS names of the cluster', 'it could not be asked');
  const logs = tellLogs(report, output.mask);
  const path = writeBundle(new Map([...report.files, ...logs]), options.file);
  output.result(`bundle: ${path}`, 'bundle', { path });
  return 0;
}

/** What is shown is what goes into the bundle: both masked. */
class Report {
  #output: Output;
  #lines: string[] = [];
  #objects: string[] = [];

  constructor(output: Output) {
    this.#output = output;
  }

  add(text: string, event: string, fields: object): void {
    const { mask } = this.#output;
    const line = printableLines(mask.apply(text));
    const masked = maskAll(fields, mask);
    this.#lines.push(line);
    this.#objects.push(JSON.stringify({ event, ...masked }));
    this.#output.result(line, event, { ...masked });
  }

  unknown(what: string, why: string): void {
    this.add(`? ${what}: ${why}`, 'unknown', { what, why });
  }

  /** Does one part of the work; what it fails of is what can't be known. */
  async try(what: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.unknown(what, error instanceof Error ? error.message : String(error));
    }
  }

  get files(): [string, string][] {
    return [
      ['report.txt', `${this.#lines.join('\n')}\n`],
      ['report.jsonl', `${this.#objects.join('\n')}\n`],
    ];
  }
}

/** Sessions and proxies of this user that run on this computer. */
async function tellHere(report: Report): Promise<void> {
  const sessions = sessionsHere();
  for (const [session, pid] of sessions) {
    await report.try(`session ${session} of process ${pid}`, async () => {
      const status = await askSession(session, 'status');
      report.add(sessionText(status), 'session', status);
    });
  }
  await report.try('the proxies that run here', async () => {
    const running = await runningProxies({ namespace: undefined, context: undefined });
    for (const { status } of running) report.add(`proxy: ${proxyText(status)}`, 'proxy', status);
    if (sessions.size === 0 && running.length === 0) report.add('no session and no proxy runs here', 'nothing', {});
  });
}

function sessionText(status: SessionStatus): string {
  const { workload, beside, namespace, context, pid, link, transport, pods, rttMs, proxyPort, ports, variables } =
    status;
  const far = rttMs === undefined ? '' : `, ${rttMs.toFixed(1)} ms away`;
  const served = ports.map(({ containerPort, laptopPort }) => `${containerPort} → 127.0.0.1:${laptopPort}`);
  return [
    `session: ${workload}${beside ? ` beside ${beside}` : ''} in ${namespace} (${context}), process ${pid}`,
    `  link      ${link}, by ${transport} to ${pods.join(', ') || 'no pod'}${far}`,
    `  ports     ${served.join(', ') || 'none'}; proxy 127.0.0.1:${proxyPort}`,
    `  variables ${variables.handed.join(', ') || 'handed to no command'}`,
    `  left out  ${variables.leftOut.join(', ') || 'none'}`,
  ].join('\n');
}

async function tellCluster(options: DiagnoseOptions, report: Report, output: Output): Promise<void> {
  const cluster = await openCluster(options, output);
  try {
    const { target } = options;
    if (target !== undefined) await report.try(`target ${target}`, () => tellTarget(cluster, options, target, report));
    await report.try('Services and DNS names', () => tellNames(cluster, report));
  } finally {
    cluster.close();
  }
}

async function tellTarget(cluster: Cluster, options: DiagnoseOptions, wanted: string, report: Report): Promise<void> {
  const target = await findTarget(cluster, parseTarget(wanted), { container: options.container });
  const { spec } = target.workload.spec.template ?? target.workload;
  const container = (spec.containers as Json[]).find(({ name }) => name === target.container);
  const variables = [
    ...((container?.env ?? []) as Json[]).map(({ name }) => String(name)),
    ...((container?.envFrom ?? []) as Json[]).map(sourceName),
  ];
  const { replicas, containerPorts, servicePorts } = target;
  const ports = containerPorts.map(({ port, protocol }) => `${port}/${protocol}`);
  const services = servicePorts.map(({ port, targetPort }) => `${port} → ${targetPort}`);
  const text = [
    `target: ${workloadName(target)}, ${replicas} replicas, container ${target.container} of ${container?.image}`,
    `  ports     ${ports.join(', ') || 'none'}; of Services ${services.join(', ') || 'none'}`,
    `  variables ${variables.join(', ') || 'none'}, by its spec`,
  ];
  const fields = { workload: workloadName(target), container: target.container, image: container?.image };
  report.add(text.join('\n'), 'target', { ...fields, replicas, containerPorts, servicePorts, variables });
}

function sourceName({ configMapRef, secretRef, prefix = '' }: Json): string {
  return `${prefix}* of ${configMapRef ? `ConfigMap ${configMapRef.name}` : `Secret ${secretRef?.name}`}`;
}

/** As a pod of the namespace has them. */
async function tellNames(cluster: Cluster, report: Report): Promise<void> {
  const { seen, domain, isDomainKnown, withEndpoints } = await readServices(cluster, { allNamespaces: false });
  const search = [`${cluster.namespace}.svc.${domain}`, `svc.${domain}`, domain];
  const assumed = isDomainKnown ? '' : ' (assumed: CoreDNS’s configuration may not be read)';
  report.add(`DNS: domain ${domain}${assumed}, search ${search.join(' ')}`, 'dns', { domain, isDomainKnown, search });
  for (const service of seen) {
    const ready = service.endpoints?.filter((each) => each.ready).length;
    const behind = ready === undefined ? '' : `, ${ready} of ${service.endpoints?.length} endpoints ready`;
    report.add(`  ${service.names.join(', ')}: ${service.type}${behind}`, 'service', service);
  }
  if (seen.length === 0) report.add(`  no Service in ${cluster.namespace}`, 'nothing', {});
  if (!withEndpoints) report.unknown('endpoints of Services', 'endpointslices.discovery.k8s.io may not be listed');
}

/** The last lines of the newest logs. @returns all of them for the bundle. */
function tellLogs(report: Report, mask: Mask): [string, string][] {
  const logs = keptLogs().filter(({ pid }) => pid !== process.pid);
  const shown = new Set(logs.filter(({ verb }) => verb !== 'diagnose').slice(0, SHOWN_LOGS));
  const texts = logs.flatMap((log): [string, string][] => {
    const text = readLog(log.path, mask);
    if (text === undefined) return [];
    if (shown.has(log)) {
      const lines = text.trimEnd().split('\n').slice(-SHOWN_LINES);
      const head = `log: ${log.path}, ${readableSpan(Date.now() - log.changedMs)} old`;
      report.add([head, ...lines.map((line) => `  ${line}`)].join('\n'), 'recent-log', { path: log.path, lines });
    }
    return [[`logs/${log.name}`, text]];
  });
  if (shown.size === 0) report.unknown('what earlier commands did', 'there are no logs');
  for (const folder of strangeFolders())
    report.unknown(`logs in ${folder}`, 'it is another user’s (root’s, after sudo?)');
  return texts;
}

/** Masked as it was when it was written, and once more, as this process may know more. Undefined: another lpk has just removed it. */
function readLog(path: string, mask: Mask): string | undefined {
  try {
    return mask.apply(readFileSync(path, 'utf8'));
  } catch {
    return undefined;
  }
}
