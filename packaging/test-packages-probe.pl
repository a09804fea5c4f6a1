# What the process that runs this may do: one line each, "WHAT: allowed" or "WHAT: refused (why)".
#
#   perl test-packages-probe.pl FILE ADDRESS:PORT
#
# FILE gets the lines. Folders /etc/probe, /usr/probe and so on are everybody's, so that only a sandbox refuses. It is
# Perl, since every Debian has it, and it can call the kernel by number. Run as a unit's own ExecStartPost= it tells of
# exactly what confines the unit.
use strict;
use warnings;
use IO::Socket::INET;
use POSIX ();

my ($file, $afar) = @ARGV;
open(my $out, '>', $file) or die "$file: $!";

sub told {
    my ($what, $allowed, $why) = @_;
    print {$out} "$what: ", ($allowed ? "allowed" : "refused ($why)"), "\n";
}

for my $folder ('/etc', '/usr', '/home', '/var/lib', '/srv') {
    my $opened = open(my $probe, '>', "$folder/probe/x$$");
    told("write to $folder", $opened, "$!");
    unlink "$folder/probe/x$$";
}

my %number = (x86_64 => { mmap => 9, mprotect => 10 }, aarch64 => { mmap => 222, mprotect => 226 });
my $call = $number{(POSIX::uname())[4]} or die "the numbers of this machine's system calls are not known here";
my ($read, $write, $execute, $private_anonymous) = (1, 2, 4, 0x22);
my $both = syscall($call->{mmap}, 0, 4096, $read | $write | $execute, $private_anonymous, -1, 0);
told("memory that is writable and executable", $both != -1, "$!");
my $page = syscall($call->{mmap}, 0, 4096, $read | $write, $private_anonymous, -1, 0);
die "no memory: $!" if $page == -1;
told("memory made executable later", syscall($call->{mprotect}, $page, 4096, $read | $execute) != -1, "$!");

for my $peer ('127.0.0.1:8088', $afar) {
    my $socket = IO::Socket::INET->new(PeerAddr => $peer, Timeout => 3);
    told("connect to $peer", $socket, "$!");
}
close $out or die "$file: $!";
