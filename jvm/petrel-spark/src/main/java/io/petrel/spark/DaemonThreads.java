package io.petrel.spark;

import java.util.concurrent.ThreadFactory;
import java.util.concurrent.atomic.AtomicInteger;

/** Threads that never keep a JVM alive, with a name that says whose they are. */
final class DaemonThreads implements ThreadFactory {
  private final String name;
  private final AtomicInteger made = new AtomicInteger();

  DaemonThreads(String name) {
    this.name = name;
  }

  @Override
  public Thread newThread(Runnable work) {
    int number = made.getAndIncrement();
    Thread thread = new Thread(work, number == 0 ? name : name + "-" + number);
    thread.setDaemon(true);
    return thread;
  }
}
