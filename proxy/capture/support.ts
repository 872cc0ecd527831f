import { ABIS, ERRNO } from './abi.ts';
import { type Kernel, loadKernel } from './kernel.ts';

export type CaptureSupport = { ok: true } | { ok: false; why: string };

/**
 * Whether programs can be captured here, asked of the kernel itself, without a trace. It can't see whether another capture holds
 * this process already (lpk run within lpk run): `startCapture` says so.
 */
export function captureSupport(): CaptureSupport {
  if (process.platform !== 'linux') return no(`it is for Linux, not ${process.platform}`);
  if (!ABIS[process.arch]) return no(`it is for x86-64 and arm64, not ${process.arch}`);
  let kernel: Kernel;
  try {
    kernel = loadKernel();
  } catch (error) {
    const [line] = String(error instanceof Error ? error.message : error).split('\n');
    return no(`the package koffi can't be loaded: ${line}`);
  }
  // A filter at no address: whoever may install one hears EFAULT.
  const listener = kernel.tryListener();
  if (listener === -ERRNO.EINVAL) return no('the kernel is older than 5.0, or has no seccomp filters');
  if (listener !== -ERRNO.EFAULT) return no(refused('seccomp', listener));
  if (!kernel.canNotify()) return no('the kernel has no seccomp user notification');
  const copied = copyOwnFd(kernel);
  if (copied === -ERRNO.ENOSYS) return no('the kernel is older than 5.6: it has no pidfd_getfd');
  if (copied < 0) return no(refused('pidfd_getfd', copied));
  const word = kernel.memory(8);
  const read = kernel.read(process.pid, kernel.addressOf(word), kernel.memory(8), 8);
  if (read < 8) return no(refused('process_vm_readv', read));
  return { ok: true };
}

function copyOwnFd(kernel: Kernel): number {
  const fd = kernel.copyFd(process.pid, 2);
  if (fd === -ERRNO.EBADF) return 0; // there is no standard error; we were let to ask
  if (fd >= 0) kernel.close(fd);
  return fd;
}

function refused(call: string, result: number): string {
  const errno = Object.entries(ERRNO).find(([, number]) => number === -result)?.[0] ?? `errno ${-result}`;
  const sandboxed =
    result === -ERRNO.EPERM ? ', as container runtimes do (Docker: --cap-add SYS_PTRACE allows it)' : '';
  return `the sandbox or the kernel refuses ${call} (${errno})${sandboxed}`;
}

function no(why: string): CaptureSupport {
  return { ok: false, why };
}
