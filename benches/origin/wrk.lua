-- Prints what the bench reads, exactly and on one line. Without request() and response() wrk keeps its
-- static fast path, so this costs nothing while it measures. A mix of requests has a table of them in
-- front of this file, and asks them in turn.
if requests then
  local turn = 0
  function request()
    turn = turn % #requests + 1
    return requests[turn]
  end
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"bytes":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"status":%d,"socket":%d}\n',
    summary.requests, summary.bytes, summary.duration, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
