"""Renders the templates of an order with Ansible's own template action, each in a process of its own.

A process for each, since a template can hang or take all memory where no exception reaches it; forked from one that
has started already, since starting Ansible costs more than rendering hundreds of templates.
"""

import errno
import json
import os
import resource
import signal
import time

from ansible.plugins.action.template import ActionModule as Template


class ActionModule(Template):
    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'order.json')) as file:
            order = json.load(file)
        order['left'] = order['output']
        order['spent'] = 0.0
        waiting = list(range(len(order['wanted'])))
        order['end'] = time.monotonic() + order['seconds'] * order['patience']
        # One that takes long is put off until the others are done, so that it costs them nothing.
        for seconds in (order['first_seconds'], order['seconds']):
            waiting = [at for at in waiting if not self.ended(at, seconds, order, task_vars)]
        for at in waiting:
            self.say(order, at, 'late')
        return {'changed': False}

    def ended(self, at, seconds, order, task_vars):
        """Whether a template is done with so many seconds of a processor's time, which is what counts: how long it takes
        by the clock is a busy host's doing. One that only waits uses none, so it has `patience` times as long by the clock.
        """
        seconds = min(seconds, order['seconds'] - order['spent'])
        deadline = min(order['end'], time.monotonic() + seconds * order['patience'])
        child = os.fork()
        if child == 0:
            try:
                self.one(at, order, task_vars)
            finally:
                os._exit(0)
        # The clock of what a process has used, as clock_getcpuclockid(3) makes its number.
        clock = ~child << 3 | 2
        late = False
        while True:
            ended, _, used = os.wait4(child, 0 if late else os.WNOHANG)
            if ended:
                break
            if time.clock_gettime(clock) >= seconds or time.monotonic() >= deadline:
                late = True
                os.kill(child, signal.SIGKILL)
            else:
                time.sleep(0.0005)
        order['spent'] += used.ru_utime + used.ru_stime
        if late:
            return False
        try:
            order['left'] -= os.path.getsize(self.result(order, at))
        except OSError:
            pass
        return True

    def one(self, at, order, task_vars):
        self.limit(resource.RLIMIT_DATA, order['memory'])
        self.limit(resource.RLIMIT_FSIZE, max(0, order['left']))
        source = os.path.join(order['sources'], order['wanted'][at])
        self._task.args = {'src': source, 'dest': self.result(order, at)}
        try:
            done = super().run(None, task_vars)
            message = str(done.get('msg', ''))
            kind = 'failed' if done.get('failed') else 'done'
            if kind == 'failed' and 'MemoryError' in message:
                kind = 'memory'
            if kind == 'failed' and os.strerror(errno.EFBIG) in message:
                kind = 'large'
        except BaseException as error:
            large = isinstance(error, OSError) and error.errno in (errno.EFBIG, errno.ENOSPC)
            memory = isinstance(error, MemoryError)
            kind, message = 'large' if large else 'memory' if memory else 'failed', str(error)
        self.limit(resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
        self.say(order, at, kind, message)

    def limit(self, what, most):
        hard = resource.getrlimit(what)[1]
        if hard != resource.RLIM_INFINITY and (most == resource.RLIM_INFINITY or most > hard):
            most = hard
        resource.setrlimit(what, (most, hard))

    def result(self, order, at):
        return os.path.join(order['results'], str(at))

    def say(self, order, at, kind, message=''):
        with open(self.result(order, at) + '.json', 'w') as file:
            json.dump({'kind': kind, 'message': message[:10000]}, file)
