import { LpkError } from '../agent/wire/errors.ts';
import type { Output } from './output.ts';
import { oneProxy, type ProxyStatus, runningProxies } from './proxy-control.ts';
import { detectShell, type Shell, shellLines, shellVariables } from './proxy-env.ts';
import type { ProxyChoice } from './proxy-options.ts';
import { readableBytes } from './proxy-status.ts';

/** `lpk proxy down`, `status` and `env`: what asks a proxy that runs. */

export async function proxyDown(choice: ProxyChoice & { all: boolean }, output: Output): Promise<number> {
  const ending = choice.all ? await runningProxies(choice) : [await oneProxy(choice)];
  if (ending.length === 0) {
    output.result('no proxy runs', 'nothing');
    return 0;
  }
  let exitCode = 0;
  for (const proxy of ending) {
    const { namespace, context } = proxy.status;
    const step = output.step(`ending the proxy into ${namespace} (${context})`, 'down', { namespace, context });
    try {
      const { failed } = await proxy.down();
      if (failed.length > 0) throw new LpkError('internal', `it ended, but could not ${failed.join(', nor ')}`);
      step.done(`the proxy into ${namespace} (${context}) has ended`);
    } catch (error) {
      step.fail();
      output.fail(error);
      exitCode = 1;
    }
  }
  return exitCode;
}

export async function proxyStatus(choice: ProxyChoice, output: Output): Promise<number> {
  const running = await runningProxies(choice);
  if (running.length === 0) throw new LpkError('not-running', 'no proxy runs');
  for (const { status } of running) output.result(proxyText(status), 'status', status);
  return 0;
}

/** Several lines. */
export function proxyText(status: ProxyStatus): string {
  const { namespace, context, server, link, transport, rttMs, streams, bytes, reconnects, doors, dns, pid } = status;
  const far = rttMs === undefined ? '' : `, ${rttMs.toFixed(1)} ms away`;
  const extra = [
    ...(doors.systemDns ? [`system DNS by ${doors.systemDns}`] : []),
    ...(doors.tun ? [`TUN ${doors.tun.device} for ${doors.tun.ranges.join(', ')}`] : []),
  ];
  return [
    `namespace ${namespace} (${context}, ${server}), process ${pid} since ${status.since}`,
    `  link     ${link}, by ${transport} to pod ${status.pod ?? '–'}${far}; ${reconnects} reconnects`,
    `  traffic  ${streams} streams open, ${readableBytes(bytes.in)} in, ${readableBytes(bytes.out)} out`,
    `  doors    SOCKS and HTTP ${doors.proxy}, DNS ${doors.dns}${extra.map((each) => `, ${each}`).join('')}`,
    `  DNS      ${dns.queries} questions: ${dns.cached} from memory, ${dns.cluster} to the cluster, ${dns.host} to the host's resolver, ${dns.failed} failed`,
  ].join('\n');
}

export async function proxyEnv(
  choice: ProxyChoice & { shell: Shell | undefined; unset: boolean },
  output: Output,
): Promise<number> {
  const shell = choice.shell ?? detectShell(process.env, process.platform);
  // To take it back no proxy need run any more.
  const access = choice.unset ? undefined : await (await oneProxy(choice)).access();
  const variables = shellVariables(process.env, access);
  const lines = shellLines(shell, variables);
  if (output.format === 'json') output.result('', 'env', { shell, variables: { ...variables }, lines });
  else output.result(lines.join('\n'), 'env');
  return 0;
}
